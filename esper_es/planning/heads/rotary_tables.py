"""Tables of rotary positions: buffers with one frequency for each pair of channels of a head, or with the sines and
cosines of all positions, side by side or in two buffers.

All layers of a model mostly share them, so that heads of all layers have one size. Old pairs keep their frequencies,
bit for bit. New ones go on where the old ones end: geometrically, by the ratio of the last two. That is the formula of
RoPE (Su et al. 2021), ``base ** (-2 i / d)``, for the ``d`` that the heads had at first: a wider head turns its new
pairs more slowly than all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from attrs import evolve, frozen
from torch import nn

from esper_es.domain.errors import Refused
from esper_es.projections.live.names import tensor_at
from esper_es.tracing import Member, Trace
from esper_es.tracing.union_find import Ids

RECOMPUTED = ("dynamic", "longrope")
"""Kinds of rotary positions, by transformers' names, that make their frequencies anew while the model runs."""


@frozen(eq=False)
class _Table:
    """A table, read.

    Attributes:
        frequencies: of its pairs, falling.
        made: its numbers, of positions and frequencies: rows of angles, or frequencies alone.
        order: the pair of every index of its last dimension.
    """

    frequencies: torch.Tensor
    made: Callable[[torch.Tensor], torch.Tensor]
    order: Ids


def rotary_tables(root: nn.Module, found: Trace, pairs: int) -> tuple[Member, ...]:
    """Return the buffers, and parameters that are never trained, that turn so many pairs, with the pair of every index.

    Raises:
        Refused: if one of them is computed anew while the model runs, by a size that nobody could tell it.
    """
    tables = []
    for traced in found.tensors:
        tensor = tensor_at(root, traced.name)
        if not traced.table and tensor.requires_grad:
            continue
        table = _read(root, traced.name, pairs)
        if table is not None:
            _require_kept(root.get_submodule(traced.module), traced.module)
            last = tensor.ndim - 1
            tables.append(Member(traced.name, last, traced.module, "table", ("table",), table.order))
    return tuple(tables)


def continued(root: nn.Module, name: str, pairs: int, count: int) -> torch.Tensor | None:
    """Return the entries of ``count`` more pairs, which go on where the given ones end; None where the numbers are none
    of a table, as those of a copy that was drawn."""
    table, tensor = _read(root, name, pairs), tensor_at(root, name)
    if table is None:
        return None
    old = table.frequencies
    ratio = old[-1] / old[-2] if len(old) > 1 else torch.ones((), dtype=old.dtype, device="cpu")
    return table.made(old[-1] * ratio ** torch.arange(1, count + 1, dtype=old.dtype, device="cpu")).to(
        tensor.dtype
    )


def _read(root: nn.Module, name: str, pairs: int) -> _Table | None:
    """Read a tensor as frequencies, as sines and cosines of all positions side by side, or as either of them, where the
    other one lies beside it in the same module."""
    tensor = tensor_at(root, name).detach()
    if not tensor.is_floating_point():
        return None
    if tensor.shape == (pairs,):
        numbers = tensor.double().cpu()
        return _Table(numbers, lambda new: new, np.arange(pairs)) if _fall(numbers) else None
    rows = _rows(tensor)
    if rows is None:
        return None
    halves = rows[:, :pairs], rows[:, pairs:]
    if rows.shape[1] == 2 * pairs and (table := _waves(*halves, pairs)) is not None:
        return evolve(table, order=np.arange(2 * pairs) % pairs)
    path, _, own = name.rpartition(".")
    for other, beside in root.get_submodule(path).named_buffers(recurse=False):
        partner = _rows(beside) if other != own and beside.shape == tensor.shape else None
        for sines, cosines in () if partner is None else ((rows, partner), (partner, rows)):
            if (table := _either(sines, cosines, pairs)) is not None:
                return _half(table, 0 if sines is rows else 1, tensor.shape)
    return None


def _either(sines: torch.Tensor, cosines: torch.Tensor, pairs: int) -> _Table | None:
    """Sines and cosines in two tables: each pair once, or twice, as halves or neighbours."""
    once = np.arange(pairs)
    if sines.shape[1] == pairs:
        return _waves(sines, cosines, pairs)
    if sines.shape[1] != 2 * pairs:
        return None
    for order, first in ((np.tile(once, 2), slice(0, pairs)), (np.repeat(once, 2), slice(0, None, 2))):
        table = _waves(sines[:, first], cosines[:, first], pairs)
        columns = torch.from_numpy(order)
        alike = all(torch.equal(part[:, first][:, columns], part) for part in (sines, cosines))
        if table is not None and alike:
            return evolve(table, order=order)
    return None


def _half(table: _Table, part: int, shape: torch.Size) -> _Table:
    """Of a table of sines and cosines the one or the other, laid out in its order and shape."""
    pairs = len(table.frequencies)
    doubled, neighbours = len(table.order) > pairs, pairs > 1 and table.order[1] == table.order[0]

    def made(new: torch.Tensor) -> torch.Tensor:
        entries: torch.Tensor = table.made(new).chunk(2, dim=1)[part]
        if doubled:
            entries = entries.repeat_interleave(2, 1) if neighbours else entries.repeat(1, 2)
        return entries.reshape(*shape[:-1], -1)

    return evolve(table, made=made)


def _rows(tensor: torch.Tensor) -> torch.Tensor | None:
    """A tensor as one row for each position."""
    long = tensor.ndim > 1 and tensor.shape[-2] > 1 and tensor.is_floating_point()
    if not long or tensor.numel() != tensor.shape[-1] * tensor.shape[-2]:
        return None
    return tensor.detach().double().cpu().reshape(tensor.shape[-2:])


def _waves(sines: torch.Tensor, cosines: torch.Tensor, pairs: int) -> _Table | None:
    """Sines and cosines of multiples of falling frequencies."""
    frequencies = torch.atan2(sines[1], cosines[1])
    positions = torch.arange(len(sines), dtype=torch.float64, device="cpu")[:, None]
    angles = positions * frequencies
    if not (
        _fall(frequencies)
        and torch.allclose(sines, angles.sin(), atol=1e-3)
        and torch.allclose(cosines, angles.cos(), atol=1e-3)
    ):
        return None

    def made(new: torch.Tensor) -> torch.Tensor:
        return torch.cat(((positions * new).sin(), (positions * new).cos()), dim=1)

    return _Table(frequencies, made, np.arange(pairs))


def _fall(numbers: torch.Tensor) -> bool:
    """Whether numbers fall from one to the next, and none is zero."""
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
