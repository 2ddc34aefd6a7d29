"""Several channels read as one unit that stands alone: the one head of an attention.

A trace binds the channels of a head because another head is laid out like it. Of a single head it sees channels that
come and go each by itself, or that are pinned where their places in the head matter (rotary positions). All of them
together are one unit all the same, if the model, given two, takes them for two: ``as_whole`` says what that unit would
be, ``claimed`` what the trace would have said, and ``misread`` whether the trace of the larger model says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from attrs import evolve

from esper_es.tracing.groups import Member, WidthGroup
from esper_es.tracing.provenance import Trace
from esper_es.tracing.readings import Reading, holds, places
from esper_es.tracing.union_find import Ids


def as_whole(found: Trace, tensor: str, dim: int, reading: Reading) -> WidthGroup | None:
    """Return what would come with another unit like the one that a dimension of a tensor is taken for, if it can be."""
    if reading.thin:
        return _of_members(tensor, dim, found, _thin(found, reading.path))
    index, units = found.index, found.relations.units
    outside = [index.slots(t, d) for t, d in places(found) if not holds(reading.path, t.name, found)]
    known, looked_up = _known(found, mixed=reading.mixed), _looked_up(found)
    bound = np.zeros(len(units), dtype=bool)
    bound[units[np.concatenate(outside)] if outside else np.zeros(0, dtype=np.int64)] = True
    members = []
    chosen = np.full(len(units), not reading.units)
    chosen[list(reading.units)] = True
    for t, d in places(found):
        slots = index.slots(t, d)
        inside = ~bound[units[slots]] & known[units[slots]] & ~looked_up[slots]
        inside &= chosen[units[slots]] | (len(slots) == 1)
        if inside.any() and (len(slots) > 1 or reading.single):
            fine = found.group_of(t.name, d).member(t.name, d)
            assert fine is not None
            if fine.role == "affine" and not reading.scaled:
                continue
            parts = _parts(found, slots, reading.packed) if reading.packed else ()
            positions = np.where(inside, 0, -1)
            members.append(evolve(fine, positions=positions, parts=(*parts, len(slots))))
    return _of_members(tensor, dim, found, members)


def _thin(found: Trace, path: str) -> list[Member]:
    """Dimensions of size 1 inside of a module."""
    places_inside = [(t, d) for t, d in places(found) if t.shape[d] == 1 and holds(path, t.name, found)]
    fine = (found.group_of(t.name, d).member(t.name, d) for t, d in places_inside)
    return [evolve(member, parts=(1,)) for member in fine if member is not None]


def _of_members(tensor: str, dim: int, found: Trace, members: Sequence[Member]) -> WidthGroup | None:
    own = found.index.named(tensor)
    target = next((m for m in members if own is not None and (m.tensor, m.dim) == (own.name, dim)), None)
    if target is None or target.covered < len(target.positions):
        return None
    return WidthGroup(
        tensor=target.tensor,
        dim=dim,
        units=1,
        size=target.covered,
        unit_size=target.covered,
        families=1,
        members=tuple(members),
        pins=(),
        reduced_by=(),
        paired=False,
    )


def claimed(
    before: Trace,
    after: Trace,
    wholes: Sequence[WidthGroup],
    gathers: Mapping[tuple[str, int], Ids],
    *,
    trusted: bool,
) -> Trace:
    """Return the trace as it would be if each of the groups were one unit, those that ``after`` has as one together.

    What was bound to their channels and does not change with them is as ``after`` has it.

    Args:
        gathers: old index of each new one, by tensor and dimension, for all that the groups change.
        trusted: whether channels of one such unit are the same ones as ``after`` has them too. What is pinned is not
            followed any further, as all channels of a head may be that is alone.
    """
    taken = _Taken.of(before, after, wholes, gathers)
    units, same = before.relations.units.copy(), before.relations.same.copy()
    units[taken.old] = _named_anew(
        taken.old, np.where(taken.whole >= 0, taken.whole, after.relations.units[taken.new])
    )
    if trusted:
        same[taken.old] = _named_anew(taken.old, after.relations.same[taken.new])
    kept = [(np.setdiff1d(ids, taken.old), cause) for ids, cause in before.relations.pins]
    left = np.flatnonzero(taken.whole < 0)
    found = [
        (taken.old[left[np.isin(after.relations.units[taken.new[left]], after.relations.units[ids])]], cause)
        for ids, cause in after.relations.pins
    ]
    pins = tuple((ids, cause) for ids, cause in (*kept, *found) if ids.size)
    return evolve(before, relations=before.relations._replace(units=units, same=same, pins=pins))


class _Taken(NamedTuple):
    """Slots of the units that wholes consist of, where they are afterwards, and the unit there that their whole is in;
    -1 for what is bound to a whole and does not change with it."""

    old: Ids
    new: Ids
    whole: Ids

    @classmethod
    def of(
        cls, before: Trace, after: Trace, wholes: Sequence[WidthGroup], gathers: Mapping[tuple[str, int], Ids]
    ) -> _Taken:
        new = _places_after(before, after, gathers)
        whole = np.full(len(new), -1, dtype=np.int64)
        for group in wholes:
            slots = np.concatenate([_slots(before, m)[m.positions == 0] for m in group.members])
            whole[slots] = after.relations.units[new[slots[0]]]
        units = before.relations.units
        old = np.flatnonzero(np.isin(units, units[whole >= 0]) & (new >= 0))
        return cls(old, new[old], whole[old])


def _places_after(before: Trace, after: Trace, gathers: Mapping[tuple[str, int], Ids]) -> Ids:
    """For each slot where it is afterwards; -1 where that is not said."""
    new = np.full(before.index.size, -1, dtype=np.int64)
    for tensor, dim in places(before):
        other = after.index.named(tensor.name)
        if other is None or dim >= len(other.shape):
            continue
        gather = gathers.get((tensor.name, dim), np.arange(tensor.shape[dim]))
        if len(gather) == other.shape[dim]:
            kept = np.flatnonzero(gather >= 0)
            new[before.index.slots(tensor, dim)[gather[kept]]] = after.index.slots(other, dim)[kept]
    return new


def _named_anew(slots: Ids, labels: Ids) -> Ids:
    """For each of ascending slots the smallest one that has its label."""
    _, first, label = np.unique(labels, return_index=True, return_inverse=True)
    return slots[first[label]]


def misread(after: Trace, whole: WidthGroup, expected: Mapping[tuple[str, int], Ids]) -> Iterator[str]:
    """Say where a traced model does not have the units that were expected of it.

    Args:
        whole: the group that was taken for one unit.
        expected: unit of each index, by tensor and dimension; of other groups too that may come and go with it.
    """
    group = after.group_of(whole.tensor, whole.dim)
    there = {(m.tensor, m.dim) for m in group.members}
    for missing in [(m.tensor, m.dim) for m in whole.members if (m.tensor, m.dim) not in there]:
        yield f"{missing[0]} dim {missing[1]} does not come and go with {group.tensor} dim {group.dim}"
    if group.pins:
        yield f"{group.tensor} dim {group.dim} is pinned where it has several units: {group.pins[0].reason}"
    if group.families > 1:
        yield f"the units of {group.tensor} dim {group.dim} are of {group.families} kinds"
    what = f"{group.tensor} dim {group.dim}"
    for member in group.members:
        wanted = expected.get((member.tensor, member.dim))
        if wanted is None:
            yield f"{member.tensor} dim {member.dim} comes and goes with {what}"
        elif not np.array_equal(member.positions, wanted):
            yield f"{member.tensor} dim {member.dim} is not made of such units as {what} was taken for"


def _slots(found: Trace, member: Member) -> Ids:
    tensor = found.index.named(member.tensor)
    assert tensor is not None
    return found.index.slots(tensor, member.dim)


def _known(found: Trace, *, mixed: bool) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """For every unit, by its smallest slot, whether anything was seen of what it does, norms maybe left out."""
    flags = np.zeros(len(found.relations.units), dtype=bool)
    for ids, role, _ in found.relations.roles:
        if role in ("producer", "consumer", "affine"):
            flags[found.relations.units[ids]] = True
    for ids, _ in () if mixed else found.relations.reductions:
        flags[found.relations.units[ids]] = False
    return flags


def _looked_up(found: Trace) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """For every slot, whether it is read, but not by a sum over all: the rows of a table."""
    read, pinned = np.zeros((2, len(found.relations.units)), dtype=bool)
    for ids, role, _ in found.relations.roles:
        read[ids] |= role == "consumer"
    for ids, _ in found.relations.pins:
        pinned[ids] = True
    return read & pinned


def _parts(found: Trace, slots: Ids, runs: int) -> tuple[int, ...]:
    """Indices before which units of another kind begin, or units have begun anew so many times."""
    units, kinds = found.relations.units[slots], found.kinds(slots)
    changes = np.diff(kinds) != 0
    begun = (np.diff(units) < 0) | changes
    since = np.cumsum(begun)
    in_kind = since - np.maximum.accumulate(np.where(changes, since, 0))
    return tuple((np.flatnonzero(begun & (in_kind % runs == 0)) + 1).tolist())
