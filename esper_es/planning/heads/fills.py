"""What new channels of heads hold, and what becomes of the old ones.

New channels of values are drawn, and read with weights of zero. Of those of queries and keys, which meet in a product,
one side is drawn and the other zero. Where a norm sees all channels of a head, its weight and epsilon make up for the
new ones as in a residual stream (``widths/streams.py``), and what is drawn is so small that the norm does not see it:
channels that are zero on both sides would never learn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations

import numpy as np
import torch
from attrs import frozen
from numpy.typing import NDArray
from torch import nn

from esper_es.domain.edits import Edit, Fill, ScaleSlice
from esper_es.domain.index_map import IndexMap
from esper_es.planning.heads.means import means, normed, numbered_heads, ranks
from esper_es.planning.heads.rotary_tables import continued
from esper_es.planning.heads.targets import HeadTarget, without_numbers
from esper_es.planning.resizing import Resizing, gathers
from esper_es.planning.widths.fills import GIVEN, Filled, Slot, drawn, fans, neutral
from esper_es.planning.widths.streams import renormed
from esper_es.projections.live.initializers import derived_slice
from esper_es.projections.live.names import tensor_at
from esper_es.tracing import Member, WidthGroup, reads
from esper_es.tracing.union_find import Ids

OFFSET = "offset"
BARE = "bare"
QUIET = {"rms": 2.0**-11, OFFSET: 2.0**-11, BARE: 2.0**-11, "mean": 2.0**-17}
"""Size of drawn channels before a norm, beside the old ones: what it does to their size, or to their mean, is below the
rounding of single precision."""
MODULES = 4
"""Kinds of modules that make queries and keys of which all divisions into two sides are tried."""

Place = tuple[str, int]
Flags = NDArray[np.bool_]


@frozen(eq=False)
class Side:
    """Some of the channels of queries and keys, of the model as it is.

    Attributes:
        indices: by tensor and dimension.
        new: for each occurrence of a place, in order, whether new channels there belong to it; likewise.
    """

    indices: Mapping[Place, Ids]
    new: Mapping[Place, Flags]

    def of_new(self, resizing: Resizing) -> Flags:
        """Say which of the new entries of a dimension belong to it."""
        assert resizing.growth is not None
        occurrence = resizing.growth.occurrence[resizing.growth.unit >= 0]
        new = self.new.get((resizing.member.tensor, resizing.member.dim))
        if new is None or reads(resizing.group):
            return np.zeros(len(occurrence), dtype=bool)
        flags: Flags = new[occurrence]
        return flags


def sides(targets: Sequence[HeadTarget], role: str = "producer") -> Iterator[Side]:
    """Yield divisions of what makes queries and keys, in all layers alike: by the modules that do, and where one makes
    both, by what comes first in every unit, as often as queries do, or as keys do.

    Args:
        targets: what changes; of the heads in question, other channels are divided likewise.
        role: of the tensors that are divided.
    """
    paired = [target for target in targets if not target.reads]
    modules = list(
        dict.fromkeys(
            without_numbers(m.module) for target in paired for m in target.kind.members if m.role == role
        )
    )
    whole = [_Part(module) for module in modules]
    yield from (_side(paired, role, parts) for parts in _divisions(whole, len(whole) // 2))
    if role == "producer":
        cut = [_Part(m, keys, first) for m in modules for keys in (False, True) for first in (True, False)]
        yield from (_side(paired, role, parts) for parts in _divisions(cut, min(2, len(modules))))


def _divisions(parts: Sequence[_Part], most: int) -> Iterator[tuple[_Part, ...]]:
    """Choices of a few parts, not two of one module."""
    for size in range(1, most + 1) if len(parts) <= 4 * MODULES else ():
        for chosen in combinations(parts, size):
            if len({part.module for part in chosen}) == size:
                yield chosen


@frozen
class _Part:
    """What a module makes for every place of heads: all, or the first or the last channels of every unit, as many as a
    unit has keys or all but so many."""

    module: str
    keys: bool = False
    first: bool | None = None

    def __call__(self, target: HeadTarget, kind: WidthGroup, member: Member) -> Flags:
        own: Flags = member.positions >= 0
        if without_numbers(member.module) != self.module:
            return np.zeros_like(own)
        if self.first is None:
            return own
        rank = ranks(target, member)
        part = kind.per_head if self.keys else int(rank.max()) + 1 - kind.per_head
        chosen: Flags = own & ((rank < part) == self.first)
        return chosen


def _side(targets: Sequence[HeadTarget], role: str, parts: Sequence[_Part]) -> Side:
    indices: dict[Place, Ids] = {}
    new: dict[Place, Flags] = {}
    for target in targets:
        for kind in (target.kind, *target.beside):
            for member in kind.members:
                if member.role != role:
                    continue
                place = (member.tensor, member.dim)
                chosen = np.any([part(target, kind, member) for part in parts], axis=0)
                known = indices.get(place, np.zeros(0, dtype=np.int64))
                indices[place] = np.union1d(known, np.flatnonzero(chosen))
                if kind is target.kind:
                    new[place] = chosen[member.positions == 0]
    return Side(indices, new)


@frozen(eq=False)
class HeadFill:
    """New channels of heads.

    Attributes:
        root: the live model; only read.
        silent: the side whose new channels are silent.
        law: by which others are drawn.
        norm: what norms of heads do to their channels, where these have some: ``"rms"`` if they divide them by their
            size, ``"mean"`` if they take their mean from them before, ``"offset"`` if they divide them and have
            weights that are added to one, ``"bare"`` if they do and have none; empty for nothing.
        targets: what changes.
    """

    root: nn.Module
    silent: Side
    law: str
    norm: str = ""
    targets: Sequence[HeadTarget] = ()

    def fill(self, slot: Slot) -> Filled:
        if slot.member.role == "table":
            return self._continued(slot)
        fill = neutral(slot)
        if fill is not None and self.norm == OFFSET:
            return Fill("zeros"), None
        if fill is not None or slot.member.role != "producer":
            return fill or Fill("zeros"), None
        if self._is_normed(slot.resizing.group):
            return self._quiet(slot)
        if len(slot.shape) < 2:
            return Fill("zeros"), None
        silent = self.silent.of_new(slot.resizing)
        if silent.all():
            return Fill("zeros"), None
        if not silent.any():
            return drawn(slot, self.law), None
        return self._given(slot, self._drawn(slot, silent))

    def _is_normed(self, kind: WidthGroup) -> bool:
        """Whether a norm hears of new channels: the trace shows one with weights; others are of queries and keys."""
        if self.norm == BARE:
            return not reads(kind)
        return bool(self.norm) and normed(kind)

    def _continued(self, slot: Slot) -> Filled:
        old = slot.resizing.group.units
        entries = continued(self.root, slot.member.tensor, old, slot.resizing.units - old)
        return (Fill("zeros"), None) if entries is None else self._given(slot, entries)

    def _drawn(self, slot: Slot, silent: Flags) -> torch.Tensor:
        dim = slot.member.dim
        shape = (*slot.shape[:dim], len(silent), *slot.shape[dim + 1 :])
        entries = derived_slice(drawn(slot, self.law), shape, torch.float32)
        return entries.index_fill(dim, torch.from_numpy(np.flatnonzero(silent)), 0)

    def _quiet(self, slot: Slot) -> Filled:
        """What a norm does not see: zeros or means, and beside them next to nothing."""
        fill, entries = (self._means(slot) if self.norm == "mean" else None) or (Fill("zeros"), None)
        silent = self.silent.of_new(slot.resizing)
        if len(slot.shape) < 2 or silent.all():
            return fill, entries
        noise = self._drawn(slot, silent)
        old = slot.tensor().float()
        noise = noise * (
            QUIET[self.norm] * float(old.square().mean().sqrt()) / max(float(noise.std()), 1e-12)
        )
        return self._given(slot, noise if entries is None else noise + entries.float())

    def _means(self, slot: Slot) -> Filled | None:
        """The means of the heads that new entries belong to; None where these lie elsewhere by now."""
        group, growth = slot.resizing.group, slot.resizing.growth
        target = next(target for target in self.targets if target.kind is group)
        member = group.member(slot.member.tensor, slot.member.dim)
        assert growth is not None
        assert member is not None
        if len(member.positions) != slot.shape[member.dim]:
            return None
        numbers = numbered_heads(target, member)
        wanted = numbers[member.positions == 0][growth.occurrence[growth.unit >= 0]]
        entries = means(slot.tensor().movedim(member.dim, 0), numbers, wanted)
        return self._given(slot, entries.movedim(0, member.dim))

    def _given(self, slot: Slot, entries: torch.Tensor) -> Filled:
        return Fill(GIVEN, {"fan_in": fans(slot)["fan_in"]}, slot.seed), entries.to(slot.tensor().dtype)

    def finish(self, resizings: Sequence[Resizing]) -> tuple[Edit, ...]:
        own = [r for r in resizings if normed(r.group)]
        return renormed(self.root, own, scaled=self.norm != OFFSET) if self.norm else ()


def scaled(side: Side, resizings: Sequence[Resizing], factor: float) -> tuple[ScaleSlice, ...]:
    """Multiply the old channels of one side, after all dimensions were resized."""
    return tuple(_slices(side, gathers(resizings), factor))


@contextmanager
def silenced(
    module: nn.Module, targets: Sequence[HeadTarget], kept: Sequence[Sequence[int] | None], norm: str
) -> Iterator[None]:
    """Silence the channels of a copy that will go: neither made where they meet in a product, nor read.

    Args:
        module: the copy.
        targets: what changes.
        kept: for each the places that stay, where some go.
        norm: what norms of heads do; before one that takes their mean from them, the mean is silence.
    """
    before: list[tuple[torch.Tensor, torch.Tensor]] = []
    try:
        for target, staying in zip(targets, kept, strict=True):
            role = "consumer" if target.reads else "producer"
            for member in target.kind.members:
                if staying is not None and member.role == role:
                    tensor = tensor_at(module, member.tensor)
                    before.append((tensor, tensor.data))
                    mean = norm == "mean" and normed(target.kind) and not target.reads
                    numbers = numbered_heads(target, member) if mean else None
                    tensor.data = _without(tensor.detach(), member, staying, numbers)
        yield
    finally:
        for tensor, data in reversed(before):
            tensor.data = data


def _without(tensor: torch.Tensor, member: Member, kept: Sequence[int], numbers: Ids | None) -> torch.Tensor:
    """A tensor in which what goes is zero, or the mean of what stays of its head, if heads have numbers."""
    going = np.flatnonzero((member.positions >= 0) & ~np.isin(member.positions, list(kept)))
    indices = torch.from_numpy(going).to(tensor.device)
    if numbers is None:
        return tensor.index_fill(member.dim, indices, 0)
    wanted, staying = numbers[going], numbers.copy()
    staying[going] = -1
    across = tensor.movedim(member.dim, 0)
    silent = across.index_copy(0, indices, means(across, staying, wanted))
    return silent.movedim(0, member.dim).contiguous()


def _slices(side: Side, maps: Mapping[Place, Sequence[int]], factor: float) -> Iterator[ScaleSlice]:
    for (tensor, dim), own in side.indices.items():
        gather = maps.get((tensor, dim))
        places = own if gather is None else np.flatnonzero(np.isin(np.array(gather), own))
        if len(places):
            yield ScaleSlice(tensor, dim, IndexMap.of(places.tolist()), factor)
