"""Gather maps: which old index every index of a resized dimension comes from."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from attrs import cmp_using, field, frozen

from esper_es.domain.errors import UsageError
from esper_es.tracing.groups import Member, WidthGroup
from esper_es.tracing.union_find import Ids

NEW = -1


@frozen
class Refusal:
    """Why a group or a dimension cannot be resized as asked."""

    reason: str


@frozen
class Growth:
    """One dimension after new units were added.

    ``gather[i]`` is the old index of new index ``i``, -1 if it is new. For a new index, ``unit[i]`` says
    which of the new units it belongs to (0 is the first of them) and ``occurrence[i]`` the how-manieth
    index of that unit it is in this dimension, as the same units' old indices are counted in order; both
    are -1 elsewhere.
    """

    gather: Ids = field(eq=cmp_using(eq=np.array_equal), hash=False)
    unit: Ids = field(eq=cmp_using(eq=np.array_equal), hash=False)
    occurrence: Ids = field(eq=cmp_using(eq=np.array_equal), hash=False)


def growth(member: Member, count: int) -> Growth | Refusal:
    """Add ``count`` units to one dimension, at the end of each run of units in order.

    A run goes once through all units from first to last, with equally many indices for each. One
    channel-major flatten is one run, a position-major flatten has one per position, packed queries, keys
    and values have three. A dimension of a single unit is one run, but for the ``parts`` that it is known to have.

    Raises:
        UsageError: ``count`` is not positive.
    """
    if count < 1:
        raise UsageError(f"a group grows by 1 unit or more, not by {count}")
    runs = _runs(member)
    if isinstance(runs, Refusal):
        return runs
    gather, unit, occurrence = [], [], []
    start, seen = 0, 0
    for end, repeats in runs:
        kept = np.arange(start, end)
        new = np.arange(count).repeat(repeats)
        gather += [kept, np.full(len(new), NEW)]
        unit += [np.full(len(kept), NEW), new]
        occurrence += [np.full(len(kept), NEW), np.tile(np.arange(seen, seen + repeats), count)]
        start, seen = end, seen + repeats
    rest = np.arange(start, len(member.positions))
    outside = np.full(len(rest), NEW)
    return Growth(
        np.concatenate([*gather, rest]),
        np.concatenate([*unit, outside]),
        np.concatenate([*occurrence, outside]),
    )


def selection(member: Member, kept_units: Collection[int]) -> Ids:
    """The old indices that stay when only ``kept_units`` do, in order; indices outside the group all stay.

    Raises:
        UsageError: no unit is kept.
    """
    if not kept_units:
        raise UsageError(f"{member.tensor} dim {member.dim}: a group keeps at least one of its units")
    kept = np.isin(member.positions, np.fromiter(kept_units, dtype=np.int64))
    return np.flatnonzero(kept | (member.positions < 0))


def group_growth(group: WidthGroup, count: int) -> tuple[tuple[Member, Growth], ...] | Refusal:
    """Gather maps of every member of a free group that grows by ``count`` units."""
    refusal = _pinned(group)
    if refusal is not None:
        return refusal
    if group.families > 1:
        return Refusal(
            f"the {group.units} units of {group.tensor} dim {group.dim} are of {group.families} kinds that "
            "do not touch the same tensors equally often: grow a layer whose outputs are all of one kind"
        )
    grown = []
    for member in group.members:
        result = growth(member, count)
        if isinstance(result, Refusal):
            return result
        grown.append((member, result))
    return tuple(grown)


def group_selection(
    group: WidthGroup, kept_units: Collection[int]
) -> tuple[tuple[Member, Ids], ...] | Refusal:
    """Gather maps of every member of a free group that keeps only some of its units.

    Raises:
        UsageError: no unit is kept, or a unit that the group does not have.
    """
    unknown = sorted(unit for unit in kept_units if not 0 <= unit < group.units)
    if unknown:
        raise UsageError(
            f"{group.tensor} dim {group.dim} has the units 0 to {group.units - 1}, not {unknown}"
        )
    refusal = _pinned(group)
    if refusal is not None:
        return refusal
    selected = tuple((member, selection(member, kept_units)) for member in group.members)
    bare = next((member for member, kept in selected if not len(kept)), None)
    if bare is not None:
        return Refusal(
            f"{bare.tensor} dim {bare.dim} would be left without a channel: all of its units would go"
        )
    return selected


def _pinned(group: WidthGroup) -> Refusal | None:
    if group.free:
        return None
    causes = "; ".join(dict.fromkeys(f"{pin.tensor} dim {pin.dim}: {pin.reason}" for pin in group.pins))
    return Refusal(f"{group.tensor} dim {group.dim} is pinned ({causes})")


def _runs(member: Member) -> list[tuple[int, int]] | Refusal:
    """Each run as (index after its last, indices per unit)."""
    inside = np.flatnonzero(member.positions >= 0)
    if not len(inside):
        return Refusal(f"{member.tensor} dim {member.dim} has no index in the group")
    units = member.positions[inside]
    total = int(units.max()) + 1
    begins = np.isin(inside[1:], np.array(member.parts, dtype=np.int64))
    breaks = np.flatnonzero((np.diff(units) < 0) | (np.diff(inside) > 1) | begins) + 1
    runs = []
    for part in np.split(np.arange(len(units)), breaks):
        counts = np.bincount(units[part], minlength=total)
        if counts.min() != counts.max():
            first, last = int(inside[part[0]]), int(inside[part[-1]])
            return Refusal(
                f"{member.tensor} dim {member.dim}: indices {first} to {last} do not go through all {total} "
                "units in order, equally often: there is no one place for a new unit"
            )
        runs.append((int(inside[part[-1]]) + 1, int(counts[0])))
    return runs
