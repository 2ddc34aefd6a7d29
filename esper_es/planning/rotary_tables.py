"""Frequencies of rotary positions: buffers with one number for each pair of channels of a head.

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


def frequency_tables(root: nn.Module, found: Trace, pairs: int) -> tuple[Member, ...]:
    """Return the buffers that hold a frequency for each of so many pairs.

    Raises:
        Refused: if one of them is computed anew while the model runs, by a size that nobody could tell it.
    """
    tables = []
    for traced in found.tensors:
        if traced.table and traced.shape == (pairs,) and _are_frequencies(tensor_at(root, traced.name)):
            _require_kept(root.get_submodule(traced.module), traced.module)
            positions = np.arange(pairs)
            tables.append(Member(traced.name, 0, traced.module, "table", ("table",), positions))
    return tuple(tables)


def continued(frequencies: torch.Tensor, count: int) -> torch.Tensor:
    """Return ``count`` frequencies that go on where the given ones end."""
    old = frequencies.detach().double().cpu()
    ratio = old[-1] / old[-2] if len(old) > 1 else torch.ones((), dtype=old.dtype)
    steps = torch.arange(1, count + 1, dtype=old.dtype)
    return (old[-1] * ratio**steps).to(frequencies.dtype)


def _are_frequencies(buffer: torch.Tensor) -> bool:
    """Whether numbers fall from one to the next, and none is zero."""
    numbers = buffer.detach().double().cpu()
    return bool((numbers > 0).all()) and bool((numbers.diff() < 0).all())


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
