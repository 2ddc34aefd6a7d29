"""One dimension of one tensor, and where its new indices come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from attrs import frozen

from esper_es.domain.errors import Refused
from esper_es.domain.index_map import NEW, IndexMap
from esper_es.tracing import Growth, Member, Refusal, WidthGroup, group_growth, group_selection
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
    def taken(self) -> IndexMap:
        """The gather map, by which what is the same for all channels is the same for new ones too."""
        if self.member.role != "repeated":
            return self.gather
        return IndexMap.of(0 if index == NEW else index for index in self.gather)

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


def gathers(resizings: Iterable[Resizing]) -> dict[tuple[str, int], list[int]]:
    """Return plain gather maps, as the proof takes them."""
    return {(r.member.tensor, r.member.dim): list(r.gather) for r in resizings}
