"""Tables of rotary positions: buffers with one frequency for each pair of channels of a head, or with the sines and
cosines of all positions, in one buffer or in two.

All layers of a model mostly share them, so that heads of all layers have one size. Old pairs keep their frequencies,
bit for bit. New ones go on where the old ones end: geometrically, by the ratio of the last two. That is the formula of
RoPE (Su et al. 2021), ``base ** (-2 i / d)``, for the ``d`` that the heads had at first: a wider head turns its new
pairs more slowly than all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from math import tau
from typing import Any

import numpy as np
import torch
from attrs import frozen
from torch import nn

from esper_es.domain.errors import Refused
from esper_es.planning.heads.rotary_layouts import Layout, beside, layouts
from esper_es.projections.live.names import tensor_at
from esper_es.tracing import Member, Trace
from esper_es.tracing.union_find import Ids

RECOMPUTED = ("dynamic", "longrope")
"""Kinds of rotary positions, by transformers' names, that make their frequencies anew while the model runs."""
Made = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
Spread = Callable[[torch.Tensor], torch.Tensor]
CLOSE = 1e-3
"""How far sines and cosines may be off, beside what they are rounded by."""
SINGLE = torch.finfo(torch.float32).eps
"""How much further with each position: most angles are computed in single precision."""


@frozen(eq=False)
class Table:
    """A table, read.

    Attributes:
        frequencies: of its pairs, falling.
        made: its entries for other frequencies.
        dim: of the tensor, along which its pairs lie.
        order: the pair of every index of that dimension.
    """

    frequencies: torch.Tensor
    made: Callable[[torch.Tensor], torch.Tensor]
    dim: int
    order: Ids


def rotary_tables(root: nn.Module, found: Trace, pairs: int) -> tuple[Member, ...]:
    """Return the buffers, and parameters that are never trained, that turn so many pairs, with the pair of every index.

    Raises:
        Refused: if one of them is computed anew while the model runs, by a size that nobody could tell it.
    """
    names = [traced.name for traced in found.tensors if traced.table or not _learns(root, traced.name)]
    names += [name for name, buffer in root.named_buffers() if buffer.is_complex()]
    tables = []
    for name in names:
        table = _read(root, name, pairs)
        if table is not None:
            module = name.rpartition(".")[0]
            _require_kept(root.get_submodule(module), module)
            tables.append(Member(name, table.dim, module, "table", ("table",), table.order))
    return tuple(tables)


def _learns(root: nn.Module, name: str) -> bool:
    return tensor_at(root, name).requires_grad


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


def _read(root: nn.Module, name: str, pairs: int) -> Table | None:
    """Read a tensor as a table, beside others of its module that may hold the other half of it."""
    path = name.rpartition(".")[0]
    return read_table(tensor_at(root, name), tuple(root.get_submodule(path).buffers(recurse=False)), pairs)


def read_table(tensor: torch.Tensor, others: Iterable[torch.Tensor], pairs: int) -> Table | None:
    """Read a tensor as frequencies, as sines and cosines of all positions, or as either of them, where the other one
    is among others; None where its numbers are not such."""
    tensor = tensor.detach()
    if tensor.shape == (pairs,) and tensor.is_floating_point():
        numbers = tensor.double().cpu()
        return Table(numbers, lambda new: new, 0, np.arange(pairs)) if _fall(numbers) else None
    columns = (pairs, 2 * pairs)
    halves = (beside(tensor, other.detach(), columns) for other in others if other is not tensor)
    for layout in chain(layouts(tensor, columns), chain.from_iterable(halves)):
        table = _of(layout, pairs, torch.finfo(tensor.dtype).eps)
        if table is not None:
            return table
    return None


def _of(layout: Layout, pairs: int, rounding: float) -> Table | None:
    """Read sines and cosines of each pair once, or twice, as halves or neighbours."""
    for order, first, spread in _orders(layout.sines.shape[1], pairs):
        sines, cosines = layout.sines[:, first], layout.cosines[:, first]
        columns = torch.from_numpy(order)
        alike = torch.equal(sines[:, columns], layout.sines) and torch.equal(
            cosines[:, columns], layout.cosines
        )
        waves = _waves(sines, cosines, rounding) if alike else None
        if waves is not None:
            frequencies, made = waves
            entries = partial(_laid, layout, made, spread)
            return Table(frequencies, entries, layout.dim, layout.spread(order))
    return None


def _laid(layout: Layout, made: Made, spread: Spread, frequencies: torch.Tensor) -> torch.Tensor:
    sines, cosines = made(frequencies)
    return layout.laid(spread(sines), spread(cosines))


def _orders(columns: int, pairs: int) -> Iterator[tuple[Ids, slice, Spread]]:
    """The pair of each column, the columns at which each comes first, and how columns of new pairs lie."""
    once = np.arange(pairs)
    if columns == pairs:
        yield once, slice(None), lambda new: new
    else:
        yield np.tile(once, 2), slice(0, pairs), lambda new: new.repeat(1, 2)
        yield np.repeat(once, 2), slice(0, None, 2), lambda new: new.repeat_interleave(2, 1)


def _waves(sines: torch.Tensor, cosines: torch.Tensor, rounding: float) -> tuple[torch.Tensor, Made] | None:
    """The frequencies of sines and cosines of multiples of falling ones, all of one size, and how others are made."""
    size = cosines[0, 0]
    if not size > 0:
        return None
    frequencies = _frequencies(sines, cosines)
    positions = torch.arange(len(sines), dtype=torch.float64, device="cpu")[:, None]

    def made(new: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return size * (positions * new).sin(), size * (positions * new).cos()

    near = float(size) * max(CLOSE, rounding, len(sines) * SINGLE)
    right = all(
        torch.allclose(found, wave, atol=near)
        for found, wave in zip((sines, cosines), made(frequencies), strict=True)
    )
    return (frequencies, made) if right and _fall(frequencies) else None


def _frequencies(sines: torch.Tensor, cosines: torch.Tensor) -> torch.Tensor:
    """By the second position, then by later ones, each twice as far: what numbers are rounded by weighs ever less."""
    found = torch.atan2(sines[1], cosines[1])
    position = 2
    while position < len(sines):
        angles = torch.atan2(sines[position], cosines[position])
        turns = ((found * position - angles) / tau).round()
        found = (angles + turns * tau) / position
        position *= 2
    return found


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
