"""What new entries of widened tensors hold: one class per initialization.

Each is asked for the fill of one resized dimension at a time, in the order of the edits, and at the end for what
must be done to the entries that were there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Protocol

import numpy as np
import torch
from attrs import field, frozen

from esper_es.domain.edits import Edit, Fill, ScaleSlice
from esper_es.domain.index_map import IndexMap
from esper_es.planning.resizing import Resizing
from esper_es.projections.live.initializers import CONSTANTS, derived_slice
from esper_es.tracing import Member
from esper_es.tracing.union_find import Ids

GIVEN = "given"
"""Initializer of slices that a planner computed; without the vault they are drawn instead."""


@frozen(eq=False)
class Slot:
    """New entries to be filled.

    Attributes:
        resizing: along which dimension, and which units they belong to.
        shape: of the tensor before this dimension changes.
        seed: for drawn entries.
        tensor: returns the tensor as it is before this dimension changes, on the CPU.
    """

    resizing: Resizing
    shape: tuple[int, ...]
    seed: int
    tensor: Callable[[], torch.Tensor]

    @property
    def member(self) -> Member:
        return self.resizing.member


Filled = tuple[Fill, torch.Tensor | None]
"""A fill, and the entries themselves where they are not drawn from its seed."""


class Filling(Protocol):
    """An initialization."""

    def fill(self, slot: Slot) -> Filled:
        """Say what new entries hold."""

    def finish(self, resizings: Sequence[Resizing]) -> tuple[Edit, ...]:
        """Return the edits to be done after all dimensions were resized."""


def fans(slot: Slot) -> dict[str, float]:
    """Fan in and out of a weight ``(out, in, ...)``, or of ``(in, out)`` where the channels come last.

    The fan in is that of the tensor before this dimension changes, which is what one new unit is fed by.
    """
    shape, dim = slot.shape, slot.member.dim
    if len(shape) < 2:
        return {"fan_in": 1.0, "fan_out": float(prod(shape))}
    across = 1 - dim if dim < 2 else 0
    rest = prod(size for d, size in enumerate(shape) if d not in (dim, across))
    ins, outs = (shape[across], shape[dim]) if slot.member.role != "consumer" else (shape[dim], shape[across])
    return {"fan_in": float(ins * rest), "fan_out": float(outs * rest)}


def drawn(slot: Slot, law: str) -> Fill:
    """Entries drawn from a seed."""
    arguments = fans(slot)
    if law == "kaiming":
        arguments.pop("fan_out")
    return Fill(law, arguments, slot.seed)


def neutral(slot: Slot) -> Fill | None:
    """Fill of norms and of their statistics, which begin as torch's do, and of tables in buffers; None for all other
    tensors."""
    name = slot.member.tensor.rpartition(".")[2]
    if slot.member.role == "statistic":
        return Fill("ones" if name == "running_var" else "zeros")
    if slot.member.role == "table":
        return Fill("zeros")
    if slot.member.role == "affine":
        return Fill("zeros" if name == "bias" else "ones")
    return None


@frozen
class Silent:
    """New units are fed by drawn weights and read with weights of zero: the model's function stays, and they learn.

    Attributes:
        law: ``"kaiming"`` (He et al. 2015) or ``"xavier"`` (Glorot and Bengio 2010).
    """

    law: str = "kaiming"

    def fill(self, slot: Slot) -> Filled:
        fill = neutral(slot)
        if fill is None:
            produces = slot.member.role == "producer" and len(slot.shape) > 1
            fill = drawn(slot, self.law) if produces else Fill("zeros")
        return fill, None

    def finish(self, resizings: Sequence[Resizing]) -> tuple[Edit, ...]:
        return ()


@frozen
class OneSided:
    """New units that meet each other in a product: as ever, but on one side of it they are fed by weights of zero.

    Attributes:
        zero: the side, by tensor, dimension, and number among the indices of a unit in that dimension.
    """

    zero: frozenset[tuple[str, int, int]]
    drawn: Silent = Silent()

    def fill(self, slot: Slot) -> Filled:
        fill, entries = self.drawn.fill(slot)
        growth = slot.resizing.growth
        if fill.initializer in CONSTANTS or growth is None:
            return fill, entries
        tensor, dim = slot.member.tensor, slot.member.dim
        sides = growth.occurrence[growth.unit >= 0]
        wanted = [side for side in np.unique(sides).tolist() if (tensor, dim, side) in self.zero]
        if not wanted:
            return fill, entries
        shape = (*slot.shape[:dim], len(sides), *slot.shape[dim + 1 :])
        entries = derived_slice(fill, shape, slot.tensor().dtype)
        zero = torch.from_numpy(np.flatnonzero(np.isin(sides, wanted)))
        return Fill(GIVEN, {"fan_in": fans(slot)["fan_in"]}, slot.seed), entries.index_fill(dim, zero, 0)

    def finish(self, resizings: Sequence[Resizing]) -> tuple[Edit, ...]:
        return ()


@frozen
class Zeros:
    """New units are fed by weights of zero and read with drawn ones. They learn where the activation between has a
    slope at zero."""

    def fill(self, slot: Slot) -> Filled:
        fill = neutral(slot)
        if fill is None:
            fill = drawn(slot, "kaiming") if slot.member.role == "consumer" else Fill("zeros")
        return fill, None

    def finish(self, resizings: Sequence[Resizing]) -> tuple[Edit, ...]:
        return ()


@frozen(eq=False)
class Split:
    """New units are copies of old ones, and what reads both gives each a share (Net2Wider, Chen et al. 2016).

    There is no noise; instead the shares of ``n`` copies are as 1 : 2 : ... : n, so that copies get different
    gradients and part ways. Old units are chosen in turn, in an order drawn from ``seed``.

    Attributes:
        sources: old unit that each new unit copies, by group.
    """

    seed: int
    sources: dict[int, Ids] = field(factory=dict)

    def copied(self, resizing: Resizing) -> Ids:
        """Old unit that each new unit of the group copies."""
        group = resizing.group
        if id(group) not in self.sources:
            order = np.random.default_rng(self.seed).permutation(group.units)
            self.sources[id(group)] = np.resize(order, resizing.units - group.units)
        return self.sources[id(group)]

    def fill(self, slot: Slot) -> Filled:
        resizing = slot.resizing
        units = self.copied(resizing)
        index = torch.from_numpy(resizing.sources(units))
        entries = slot.tensor().index_select(slot.member.dim, index)
        if slot.member.role == "consumer":
            assert resizing.growth is not None
            counts = self._counts(resizing)
            turn = np.array([1 + int((units[:i] == unit).sum()) for i, unit in enumerate(units)])
            share = (turn + 1) * 2.0 / (counts[units] * (counts[units] + 1))
            of = resizing.growth.unit[resizing.growth.unit >= 0]
            view = [1] * entries.ndim
            view[slot.member.dim] = -1
            entries = entries * torch.from_numpy(share[of]).to(entries.dtype).view(view)
        return Fill(GIVEN, {"fan_in": fans(slot)["fan_in"]}, slot.seed), entries

    def _counts(self, resizing: Resizing) -> Ids:
        """How many copies of each old unit there are, itself included."""
        counts: Ids = 1 + np.bincount(self.copied(resizing), minlength=resizing.group.units)
        return counts

    def finish(self, resizings: Sequence[Resizing]) -> tuple[Edit, ...]:
        """The old units' own shares, the smallest."""
        edits: list[Edit] = []
        for r in resizings:
            if r.member.role != "consumer" or r.growth is None:
                continue
            counts = self._counts(r)
            old = r.growth.gather
            unit = np.where(old >= 0, r.member.positions[np.maximum(old, 0)], -1)
            for count in np.unique(counts[counts > 1]).tolist():
                places = np.flatnonzero((unit >= 0) & (counts[np.maximum(unit, 0)] == count))
                if len(places):
                    factor = 2.0 / (count * (count + 1))
                    indices = IndexMap.of(places.tolist())
                    edits.append(ScaleSlice(r.member.tensor, r.member.dim, indices, factor))
        return tuple(edits)
