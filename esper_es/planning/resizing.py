"""One dimension of one tensor, and where its new indices come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from attrs import evolve, frozen

from esper_es.domain.errors import Refused
from esper_es.domain.index_map import NEW, IndexMap
from esper_es.tracing import Growth, Member, Refusal, WidthGroup, group_growth, group_selection, growth
from esper_es.tracing.union_find import Ids

Dims = Mapping[tuple[str, int], IndexMap]
"""Gather maps by tensor and dimension."""


@frozen(eq=False)
class Resizing:
    """One dimension of one tensor that changes with a group.

    Attributes:
        member: the dimension.
        gather: old index of each new index.
        growth: which new unit each new index belongs to; None when units are taken away.
        group: the group that changes.
        units: how many units the group has afterwards.
    """

    member: Member
    gather: IndexMap
    growth: Growth | None
    group: WidthGroup
    units: int

    @property
    def old_size(self) -> int:
        return len(self.member.positions)

    @property
    def new_size(self) -> int:
        return len(self.gather)

    @property
    def new_head_size(self) -> int:
        """Channels of one head afterwards, where it is the places inside of heads that change; 0 elsewhere."""
        return self.group.head_size + (self.units - self.group.units) * self.group.per_head

    @property
    def taken(self) -> IndexMap:
        """The gather map, by which what is the same for all channels is the same for new ones too."""
        if self.member.role != "repeated":
            return self.gather
        return IndexMap.of(0 if index == NEW else index for index in self.gather)

    def after(self, earlier: Sequence[int]) -> Resizing:
        """Return what it is once the dimension was changed for another group: new entries there are outside of this.

        Args:
            earlier: old index of each index as it is then.

        Raises:
            Refused: if there is no one place for a new unit any more.
        """
        old = np.array(earlier)
        inside = old != NEW
        positions = np.where(inside, self.member.positions[np.maximum(old, 0)], NEW)
        member = evolve(self.member, positions=positions)
        if self.growth is None:
            kept = np.flatnonzero(~inside | np.isin(old, list(self.gather)))
            return evolve(self, member=member, gather=IndexMap.of(kept.tolist()))
        again = growth(member, self.units - self.group.units)
        if isinstance(again, Refusal):
            raise Refused(again.reason, "pinned")
        return evolve(self, member=member, gather=IndexMap.of(again.gather.tolist()), growth=again)

    @property
    def standing(self) -> Ids:
        """Old indices as ``(units, indices of one unit in order)``; where no unit has more than another."""
        order = np.argsort(self.member.positions, kind="stable")
        return order[len(order) - self.member.covered :].reshape(self.group.units, -1).astype(np.int64)

    @property
    def new_units(self) -> Ids:
        """Unit of each new index, -1 for those outside of the group; growing only."""
        assert self.growth is not None
        old = np.array(list(self.gather), dtype=np.int64)
        return np.where(old < 0, self.growth.unit + self.group.units, self.member.positions[old])

    def sources(self, units: Ids) -> Ids:
        """Old index that each new one would copy, if new unit ``i`` copied the old unit ``units[i]``; growing only.

        Where units have several indices in this dimension, each goes to the index of the same standing.
        """
        assert self.growth is not None
        new = self.growth.unit >= 0
        return self.standing[units[self.growth.unit[new]], self.growth.occurrence[new]]


def grown(group: WidthGroup, units: int) -> tuple[Resizing, ...]:
    """Return how each member of a group changes when it grows to ``units`` units.

    Raises:
        Refused: if the group is pinned, or there is no one place for a new unit.
    """
    outcome = group_growth(group, units - group.units)
    if isinstance(outcome, Refusal):
        raise Refused(outcome.reason, "pinned")
    return tuple(Resizing(m, IndexMap.of(g.gather.tolist()), g, group, units) for m, g in outcome)


def shrunk(group: WidthGroup, kept: Iterable[int]) -> tuple[Resizing, ...]:
    """Return how each member of a group changes when only the units ``kept`` stay.

    Raises:
        Refused: if the group is pinned.
    """
    kept = tuple(kept)
    outcome = group_selection(group, kept)
    if isinstance(outcome, Refusal):
        raise Refused(outcome.reason, "pinned")
    return tuple(Resizing(m, IndexMap.of(ids.tolist()), None, group, len(kept)) for m, ids in outcome)


def in_turn(resizings: Iterable[Resizing]) -> tuple[Resizing, ...]:
    """Return resizings of which each is meant for the model as it is after those in front of it.

    Several groups may lie side by side in one dimension: the heads of keys, and others of values, in packed rows.

    Raises: as ``Resizing.after``.
    """
    known: list[Resizing] = []
    there: dict[tuple[str, int], list[Resizing]] = {}
    for resizing in resizings:
        place = (resizing.member.tensor, resizing.member.dim)
        earlier = there.setdefault(place, [])
        turned = resizing.after(gathers(earlier)[place]) if earlier else resizing
        earlier.append(turned)
        known.append(turned)
    return tuple(known)


def are_apart(resizings: Sequence[Resizing]) -> bool:
    """Say whether each changes a dimension of its own."""
    return len({(r.member.tensor, r.member.dim) for r in resizings}) == len(resizings)


def gathers(resizings: Iterable[Resizing]) -> dict[tuple[str, int], list[int]]:
    """Return plain gather maps from the model as it was, as the proof takes them."""
    maps: dict[tuple[str, int], list[int]] = {}
    for r in resizings:
        place, gather = (r.member.tensor, r.member.dim), list(r.gather)
        earlier = maps.get(place)
        maps[place] = gather if earlier is None else [i if i == NEW else earlier[i] for i in gather]
    return maps
