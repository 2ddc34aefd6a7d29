"""Places inside of heads: what a trace says of the channels of one unit, that every unit like it repeats.

The channels of a head come and go together, as the same code cuts all heads. So channels at one place of every head
make up a unit of another kind: with another such unit, every head has another channel. Which places are one is what
the relation *same* says: the fourth row of a head of queries is the fourth of the keys that it meets, and where rotary
positions turn channels in pairs it is the partner of another row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from math import gcd
from typing import NamedTuple

import numpy as np
from attrs import evolve
from numpy.typing import NDArray

from esper_es.tracing.groups import Member, Pin, Reduction, WidthGroup
from esper_es.tracing.provenance import Trace
from esper_es.tracing.union_find import Ids, UnionFind

REPEATED = "is repeated for several units in"
OF_HEADS = (REPEATED, "is shared by several units in", "meets a tensor without channels in")
"""Reasons, but for the operator, why channels can't come and go with heads, which say nothing about places in these:
one head of keys for all, the norm of every head, a rotary table."""

Place = tuple[str, int]


def places_in_heads(found: Trace, group: WidthGroup) -> tuple[WidthGroup, ...]:
    """Return the groups of places in the heads that the units of a group are, by their first channels.

    Places that do not touch the same tensors equally often are of several kinds, each a group: those of queries and
    keys, those of values, those that rotary positions turn and those that they leave alone. There are none where the
    units are not laid out alike.
    """
    if group.families > 1 or not (group.compact or group.whole):
        return ()
    standing = {(m.tensor, m.dim): _standing(found, group, m) for m in group.members}
    labels = _labels(found, group, standing)
    inside = np.zeros(found.index.size, dtype=bool)
    inside[np.concatenate([slots.ravel() for slots in standing.values()])] = True
    slots = np.flatnonzero(np.isin(labels, labels[inside]))
    kinds = tuple(_kinds(found, slots, labels[slots]))
    heads = _heads_per_unit(found, group, kinds)
    return tuple(_sized(found, group, kind, heads) for kind in kinds)


def sides_of_heads(found: Trace, group: WidthGroup) -> tuple[tuple[WidthGroup, ...], ...]:
    """Return the kinds of places of queries and keys, and those of values, in the heads that the units of a group are.

    Kinds are of one head where they lie side by side in a dimension; a unit may have several, as those of a local and
    of a global attention. What the trace does not show is left out: queries that meet no keys in sight, units that make
    more channels than they read, as those of a state space model do. There are no values where
    nothing beside them meets anything, or goes out of sight: the filters of a grouped convolution are none.
    """
    every = places_in_heads(found, group)
    kinds = [kind for kind in every if kind.head_size > 1 or _lies_beside(kind, every)]
    weighed = _side_by_side([kind for kind in kinds if not reads(kind)])
    values = _side_by_side([kind for kind in kinds if reads(kind)])
    shown = [side for side in weighed if all(_size(side) in kind.met for kind in side)]
    if any(kind.met for side in weighed for kind in side) or (weighed and group.pins):
        shown += [side for side in values if all(_arrive(kind) for kind in side)]
    return tuple(side for side in shown if _size(side) > 1)


def head_size(found: Trace, group: WidthGroup) -> int:
    """Return how many channels each head has, of those in the dimension that a group is named by; 0 where it has none,
    or the trace does not show it.

    Where it has some of queries and keys, and others of values, it is the size of the former.
    """
    place = (group.tensor, group.dim)
    sizes = [
        _size(side) for side in sides_of_heads(found, group) if any(kind.member(*place) for kind in side)
    ]
    return sizes[0] if sizes else 0


def reads(kind: WidthGroup) -> bool:
    """Whether channels of these places are those of values, which a layer reads: queries and keys may be read too, as
    by a table of relative positions, but meet one another."""
    return not kind.met and any(member.role == "consumer" for member in kind.members)


def _size(side: Sequence[WidthGroup]) -> int:
    return sum(kind.head_size for kind in side)


def _side_by_side(kinds: Iterable[WidthGroup]) -> list[tuple[WidthGroup, ...]]:
    """Kinds that lie in one dimension of a tensor, or are joined by others that do."""
    sides: list[tuple[WidthGroup, ...]] = []
    for kind in kinds:
        joined = [side for side in sides if any(_dims(kind) & _dims(other) for other in side)]
        sides = [side for side in sides if side not in joined]
        sides.append((*chain(*joined), kind))
    return sides


def _lies_beside(one: WidthGroup, kinds: Sequence[WidthGroup]) -> bool:
    """Whether a single channel of queries and keys is part of a head, and not what stands for all of it."""
    others = (kind for kind in kinds if kind is not one and kind.met)
    return bool(one.met) and any(_dims(kind) == _dims(one) for kind in others)


def _dims(kind: WidthGroup) -> set[Place]:
    return {(member.tensor, member.dim) for member in kind.members}


def _arrive(kind: WidthGroup) -> bool:
    """Whether each channel of values that is made is read, once or by several heads."""
    made = [member.covered for member in kind.members if member.role == "producer"]
    read = [member.covered for member in kind.members if member.role == "consumer"]
    return not made or all(count % min(made) == 0 and count >= max(made) for count in read)


def _standing(found: Trace, group: WidthGroup, member: Member) -> Ids:
    """Slots of a member as ``(units, channels of one unit in order)``."""
    order = np.argsort(member.positions, kind="stable")[len(member.positions) - member.covered :]
    return _slots(found, (member.tensor, member.dim))[order].reshape(group.units, -1)


def _slots(found: Trace, place: Place) -> Ids:
    tensor = found.index.named(place[0])
    assert tensor is not None
    return found.index.slots(tensor, place[1])


def _labels(found: Trace, group: WidthGroup, standing: Mapping[Place, Ids]) -> Ids:
    """For every slot a label that only those share that are at the same place of some head."""
    size, same = found.index.size, found.relations.same
    nodes = sum(slots.shape[1] for slots in standing.values())
    sets = UnionFind(2 * size + nodes)
    untold = {(m.tensor, m.dim) for m in group.members if _is_untold(m, same[standing[m.tensor, m.dim]])}
    told = np.ones(size, dtype=bool)
    first = 2 * size
    for place, slots in standing.items():
        sets.union(slots.ravel(), np.tile(np.arange(first, first + slots.shape[1]), group.units))
        first += slots.shape[1]
        told[slots] = place not in untold
    sets.union(np.flatnonzero(told), size + same[told])
    inside = np.zeros(size, dtype=bool)
    inside[np.concatenate([slots.ravel() for slots in standing.values()])] = True
    for few, many in found.relations.shares:
        known = (many >= 0) & (many < size) & ((few >= 0) & (few < size))[:, None]
        if inside[many[known]].any() and not inside[few[(few >= 0) & (few < size)]].any():
            beside = np.broadcast_to(few[:, None], many.shape)[known]
            sets.union(size + same[beside], size + same[many[known]])
    for place in untold:
        _match_repeated(found, group, standing, standing[place], sets)
    return sets.labels()[:size]


def _is_untold(member: Member, same: Ids) -> bool:
    """Whether all channels of a head that are read count as one, as where all heads have the values of one."""
    return member.role == "consumer" and same.shape[1] > 1 and bool((same == same[:, :1]).all())


def _match_repeated(
    found: Trace, group: WidthGroup, standing: Mapping[Place, Ids], slots: Ids, sets: UnionFind
) -> None:
    """Take what reads heads that share one head of values to read that one: the channels that are repeated for all
    and are met by nothing else."""
    labels = sets.labels()
    size = found.index.size
    met = {int(labels[each]) for ids in standing.values() for each in ids[0]}
    around = _around(group)
    repeated = [ids for ids, cause in found.relations.pins if cause.reason.startswith(REPEATED)]
    names: dict[int, int] = {}
    for slot in np.unique(np.concatenate(repeated)).tolist() if repeated else ():
        name = found.index.tensors[
            found.index.places[int(found.index.place_numbers(np.array([slot]))[0])][0]
        ].name
        if name.startswith(around) and int(labels[slot]) not in met:
            names.setdefault(int(found.relations.same[slot]), slot)
    if len(names) == slots.shape[1]:
        channels = size + np.array(sorted(names), dtype=np.int64)
        sets.union(slots[0], channels)


def _around(group: WidthGroup) -> str:
    """Path of the innermost module that holds all members, with a dot behind it."""
    paths = [member.tensor.split(".")[:-1] for member in group.members]
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return "".join(f"{part}." for part in shared)


class _Kind(NamedTuple):
    """Places that touch the same tensors equally often: ordinals over dimensions, -1 outside; ``met`` as in
    ``WidthGroup``."""

    places: int
    positions: Mapping[Place, Ids]
    slots: Ids
    met: frozenset[int]


def _kinds(found: Trace, slots: Ids, labels: Ids) -> Iterator[_Kind]:
    """Kinds of places, by their first slots."""
    index, met = found.index, tuple(_met(found))
    _, at, ordinal = np.unique(labels, return_index=True, return_inverse=True)
    numbers = index.place_numbers(slots)
    used, column = np.unique(numbers, return_inverse=True)
    counts = np.zeros((len(at), len(used)), dtype=np.int64)
    np.add.at(counts, (ordinal, column), 1)
    for mixed, support in _splits(counts):
        counts = np.vstack([counts, np.where(support, counts[mixed], 0)])
        counts[mixed][support] = 0
        parted = (ordinal == mixed) & support[column]
        at = np.append(at, np.flatnonzero(parted)[0])
        ordinal = np.where(parted, len(at) - 1, ordinal)
    _, signature = np.unique(counts, axis=0, return_inverse=True)
    for kind in dict.fromkeys(signature[np.argsort(at, kind="stable")].tolist()):
        classes = np.flatnonzero(signature == kind)
        rank = np.full(len(at), -1, dtype=np.int64)
        rank[classes[np.argsort(at[classes], kind="stable")]] = np.arange(len(classes))
        own = rank[ordinal] >= 0
        positions: dict[Place, Ids] = {}
        weights: list[Ids] = []
        for number in np.unique(numbers[own]).tolist():
            t, dim = index.places[number]
            tensor = index.tensors[t]
            here = own & (numbers == number)
            where = np.full(tensor.shape[dim], -1, dtype=np.int64)
            where[slots[here] - int(index.starts[number])] = rank[ordinal[here]]
            where.setflags(write=False)
            positions[tensor.name, dim] = where
            if _is_weight(found, (tensor.name, dim)):
                weights.append(slots[here])
        sizes = frozenset(size for flags, size in met if _are_met(weights, flags))
        yield _Kind(len(classes), positions, slots[own], sizes)


def _are_met(weights: Iterable[Ids], flags: NDArray[np.bool_]) -> bool:
    """Whether all that is made of some channels is flagged, of those dimensions that hold any that are."""
    reached = [slots for slots in weights if flags[slots].any()]
    return bool(reached) and all(flags[slots].all() for slots in reached)


def _met(found: Trace) -> Iterator[tuple[NDArray[np.bool_], int]]:
    """For every number of channels that products without weights are summed over: which slots are among these, they or
    what is the same."""
    same = found.relations.same
    for ids, size in found.relations.met:
        flags = np.zeros(found.index.size, dtype=bool)
        flags[same[ids]] = True
        yield flags[same], size


def _splits(counts: Ids) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Places of several kinds that are one channel by what they stand for: the first of a head stands for all of it
    where something is one number for each head, as position biases are. Yields each with the dimensions of a kind."""
    signatures, times = np.unique(counts, axis=0, return_counts=True)
    for mixed in signatures[times == 1]:
        number = int(np.flatnonzero((counts == mixed).all(axis=1))[0])
        for other in signatures:
            support = other > 0
            if not np.array_equal(other, mixed) and np.array_equal(mixed[support], other[support]):
                yield number, support


def _heads_per_unit(found: Trace, group: WidthGroup, kinds: Sequence[_Kind]) -> int:
    """How many heads of queries one unit has: as often as it reads a head of values."""
    for kind in kinds:
        if kind.met:
            continue
        read = [_count(group, kind, p) for p in kind.positions if _role(found, p) == "consumer"]
        made = [_count(group, kind, p) for p in kind.positions if _is_weight(found, p)]
        inside = any(_inside(group, kind, p) for p in kind.positions if _is_weight(found, p))
        if read and made and inside and read[0] % made[0] == 0:
            return read[0] // made[0]
    return 1


def _sized(found: Trace, group: WidthGroup, kind: _Kind, heads: int) -> WidthGroup:
    made = [_count(group, kind, place) for place in kind.positions if _is_weight(found, place)]
    per_head = gcd(*made) if made else 1
    if len(made) == 1 and kind.met and made[0] % (heads + 1) == 0:
        per_head = made[0] // (heads + 1)
    target = next(iter(kind.positions))
    return WidthGroup(
        tensor=target[0],
        dim=target[1],
        units=kind.places,
        size=len(kind.positions[target]),
        unit_size=int((kind.positions[target] >= 0).sum()) // kind.places,
        families=1,
        members=tuple(_member(found, group, place, where) for place, where in kind.positions.items()),
        pins=tuple(_pins(found, kind.slots)),
        reduced_by=tuple(_reductions(found, kind.slots)),
        paired=bool(np.isin(found.relations.paired, kind.slots).any()),
        head_size=kind.places * per_head,
        per_head=per_head,
        met=kind.met,
    )


def _count(group: WidthGroup, kind: _Kind, place: Place) -> int:
    """How many channels of one unit, and of what all units share, are at one place of heads in a dimension."""
    inside = _inside(group, kind, place)
    return inside // group.units + int((kind.positions[place] >= 0).sum()) // kind.places - inside


def _inside(group: WidthGroup, kind: _Kind, place: Place) -> int:
    """How many channels of all units are at one place of heads in a dimension."""
    member = group.member(*place)
    if member is None:
        return 0
    return int(((kind.positions[place] >= 0) & (member.positions >= 0)).sum()) // kind.places


def _is_weight(found: Trace, place: Place) -> bool:
    tensor = found.index.named(place[0])
    return tensor is not None and len(tensor.shape) > 1 and _role(found, place) == "producer"


def _role(found: Trace, place: Place) -> str:
    return _traced_member(found, place).role


def _traced_member(found: Trace, place: Place) -> Member:
    member = found.group_of(*place).member(*place)
    assert member is not None
    return member


def _member(found: Trace, group: WidthGroup, place: Place, positions: Ids) -> Member:
    """One dimension of a kind. Where there is but one place, every channel at it is a part by itself."""
    parts = tuple(np.flatnonzero(positions == 0).tolist()) if positions.max() == 0 else ()
    member = group.member(*place) or _traced_member(found, place)
    return evolve(member, positions=positions, parts=parts)


def _pins(found: Trace, slots: Ids) -> Iterator[Pin]:
    """Pins of channels for another reason than that heads have them in common."""
    flags = _flags(found, slots)
    for ids, cause in found.relations.pins:
        if not cause.reason.startswith(OF_HEADS) and (hit := ids[flags[ids]]).size:
            t, dim = found.index.places[int(found.index.place_numbers(hit[:1])[0])]
            yield Pin(found.index.tensors[t].name, dim, cause.reason, cause.module)


def _reductions(found: Trace, slots: Ids) -> Iterator[Reduction]:
    flags = _flags(found, slots)
    yield from (Reduction(*site) for ids, site in found.relations.reductions if flags[ids[ids >= 0]].any())


def _flags(found: Trace, slots: Ids) -> NDArray[np.bool_]:
    flags = np.zeros(found.index.size, dtype=bool)
    flags[slots] = True
    return flags


def freed(found: Trace, places: Mapping[Place, Ids], heads: Sequence[WidthGroup]) -> Trace:
    """Return a trace without pins that say of these indices no more than that heads have them in common, and without
    what it says of channels inside of heads, which is for ``places_in_heads`` to compare: the first of a head may stand
    for all of it, and of one head alone nothing shows that it is one unit.

    Args:
        places: indices by tensor and dimension.
        heads: groups of whole heads.
    """
    flags = np.zeros(found.index.size, dtype=bool)
    for place, indices in places.items():
        flags[_slots(found, place)[indices]] = True
    same, units = found.relations.same.copy(), found.relations.units.copy()
    for group in heads:
        inside = np.concatenate([_standing(found, group, member).ravel() for member in group.members])
        flags[inside] = True
        same[inside] = inside + found.index.size
        if group.whole:
            several = [
                _standing(found, group, member).ravel() for member in group.members if member.covered > 1
            ]
            units[np.concatenate(several)] = inside.min()
    pins = [
        (ids[~flags[ids]] if cause.reason.startswith(OF_HEADS) else ids, cause)
        for ids, cause in found.relations.pins
    ]
    kept = tuple((ids, cause) for ids, cause in pins if ids.size)
    return evolve(found, relations=found.relations._replace(pins=kept, same=same, units=units))
