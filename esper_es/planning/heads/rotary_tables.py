"""Tables of rotary positions: buffers with one frequency for each pair of channels of a head, or with the sines and
cosines of all positions.

All layers of a model mostly share them, so that heads of all layers have one size. Old pairs keep their frequencies,
bit for bit. New ones go on where the old ones end: geometrically, by the ratio of the last two. That is the formula of
RoPE (Su et al. 2021), ``base ** (-2 i / d)``, for the ``d`` that the heads had at first: a wider head turns its new
pairs more slowly than all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from esper_es.domain.errors import Refused
from esper_es.projections.live.names import tensor_at
from esper_es.tracing import Member, Trace

RECOMPUTED = ("dynamic", "longrope")
"""Kinds of rotary positions, by transformers' names, that make their frequencies anew while the model runs."""


def rotary_tables(root: nn.Module, found: Trace, pairs: int) -> tuple[Member, ...]:
    """Return the buffers that turn so many pairs, with the pair of every index.

    Raises:
        Refused: if one of them is computed anew while the model runs, by a size that nobody could tell it.
    """
    tables = []
    for traced in found.tensors:
        tensor = tensor_at(root, traced.name) if traced.table else None
        if tensor is None:
            continue
        one_each = tensor.shape == (pairs,) and _are_frequencies(tensor)
        if one_each or (tensor.shape[-1:] == (2 * pairs,) and _are_waves(tensor)):
            _require_kept(root.get_submodule(traced.module), traced.module)
            positions = np.arange(tensor.shape[-1]) % pairs
            tables.append(Member(traced.name, tensor.ndim - 1, traced.module, "table", ("table",), positions))
    return tuple(tables)


def continued(table: torch.Tensor, count: int) -> torch.Tensor:
    """Return the entries of ``count`` more pairs, which go on where the given ones end."""
    if table.ndim == 1:
        return _continued(table.detach().double().cpu(), count).to(table.dtype)
    sines, cosines = table[1].detach().double().cpu().chunk(2)
    positions = torch.arange(len(table), dtype=torch.float64)
    angles = positions[:, None] * _continued(torch.atan2(sines, cosines), count)
    return torch.cat((angles.sin(), angles.cos()), dim=1).to(table.dtype)


def _continued(old: torch.Tensor, count: int) -> torch.Tensor:
    ratio = old[-1] / old[-2] if len(old) > 1 else torch.ones((), dtype=old.dtype)
    return old[-1] * ratio ** torch.arange(1, count + 1, dtype=old.dtype)


def _are_frequencies(buffer: torch.Tensor) -> bool:
    """Whether numbers fall from one to the next, and none is zero."""
    numbers = buffer.detach().double().cpu()
    return buffer.ndim == 1 and bool((numbers > 0).all()) and bool((numbers.diff() < 0).all())


def _are_waves(buffer: torch.Tensor) -> bool:
    """Whether rows are sines and cosines of multiples of falling frequencies."""
    if buffer.ndim != 2 or len(buffer) < 2:
        return False
    sines, cosines = buffer.detach().double().cpu().chunk(2, dim=1)
    frequencies = torch.atan2(sines[1], cosines[1])
    angles = torch.arange(len(buffer), dtype=torch.float64)[:, None] * frequencies
    falling = _are_frequencies(frequencies)
    return (
        falling
        and torch.allclose(sines, angles.sin(), atol=1e-3)
        and torch.allclose(cosines, angles.cos(), atol=1e-3)
    )


def _require_kept(module: Any, path: str) -> None:
    for kind in _kinds(getattr(module, "rope_type", None)):
        if any(name in kind for name in RECOMPUTED):
            raise Refused(
                f"{type(module).__name__} {path!r} has rotary positions of the type {kind!r}, which computes its "
                "frequencies anew from the configuration while the model runs: heads keep their size",
                "rotary",
            )


def _kinds(said: Any) -> Iterator[str]:
    """One kind for all layers, or one for each kind of layers."""
    if isinstance(said, str):
        yield said
    elif isinstance(said, dict):
        yield from (kind for kind in said.values() if isinstance(kind, str))
