"""From flat relations over slots to width groups."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from esper_es.tracing.groups import Member, Pin, Reduction, WidthGroup
from esper_es.tracing.relations import Settled
from esper_es.tracing.roles import PRECEDENCE, Role
from esper_es.tracing.slots import STATISTICS, SlotIndex, TracedTensor
from esper_es.tracing.union_find import Ids


class Tagged(NamedTuple):
    """Tags of slots, sorted by unit: ``slots[i]`` of unit ``units[i]`` has the tag number ``tags[i]``."""

    units: Ids
    slots: Ids
    tags: Ids


class Grouping:
    """Answers which group a set of units forms. Built once per trace; each answer costs what it returns."""

    def __init__(self, index: SlotIndex, settled: Settled) -> None:
        self._index = index
        self._settled = settled
        self._order = np.argsort(settled.units, kind="stable").astype(np.int64)
        self._sorted_units = settled.units[self._order]
        self._place_of_slot = np.repeat(np.arange(len(index.places)), np.diff(index.starts))
        self._pins = _tagged(settled.units, [ids for ids, _ in settled.pins])
        self._reductions = _tagged(settled.units, [ids for ids, _ in settled.reductions])
        self._paired = np.unique(settled.units[settled.paired])
        self._roles = _roles_by_place(index, settled)
        self._signatures = self._unit_signatures()

    def roles(self, tensor: TracedTensor, dim: int) -> dict[Role, frozenset[str]]:
        """The roles a dimension was seen in, with the paths of the modules that were running."""
        return self._roles.get(self._index.number(tensor, dim), {})

    def kinds(self, slots: Ids) -> Ids:
        """For each slot a number that tells what kind its unit is."""
        kinds: Ids = self._signatures[self._settled.units[slots]]
        return kinds

    def group(self, tensor: TracedTensor, dim: int) -> WidthGroup:
        """The group of all units in one dimension of one tensor."""
        return self._group(tensor, dim, self._settled.units[self._index.slots(tensor, dim)])

    def last_kind(self, tensor: TracedTensor, dim: int) -> WidthGroup:
        """The group of those units in one dimension that are of the kind of the last one."""
        targets = self._settled.units[self._index.slots(tensor, dim)]
        return self._group(tensor, dim, targets[self._signatures[targets] == self._signatures[targets[-1]]])

    def _group(self, tensor: TracedTensor, dim: int, targets: Ids) -> WidthGroup:
        """The group of the units in one dimension, named once for each of their indices, in order."""
        units, first = np.unique(targets, return_index=True)
        ordinals = np.empty(len(units), dtype=np.int64)
        ordinals[np.argsort(first, kind="stable")] = np.arange(len(units))
        counts = np.bincount(np.searchsorted(units, targets), minlength=len(units))
        slots = self._order[_ranges(self._sorted_units, units)]
        return WidthGroup(
            tensor=tensor.name,
            dim=dim,
            units=len(units),
            size=tensor.shape[dim],
            unit_size=int(counts[0]) if counts.min() == counts.max() else 0,
            families=len(np.unique(self._signatures[units])),
            members=self._members(slots, units, ordinals),
            pins=self._pins_of(units),
            reduced_by=self._reductions_of(units),
            paired=bool(np.isin(units, self._paired).any()),
        )

    def groups(self) -> tuple[WidthGroup, ...]:
        """The groups of all units that some layer produces, in the order of their first tensors.

        Each kind of unit is in one group, by a dimension that produces it or else one that reads it; kinds that no
        dimension holds alone come in one group with others.
        """
        alone: dict[int, int] = {}
        readers: dict[int, int] = {}
        mixed: list[tuple[frozenset[int], int]] = []
        for number, (t, dim) in enumerate(self._index.places):
            tensor = self._index.tensors[t]
            roles = self._roles.get(number, {}).keys()
            if tensor.shape[dim] and roles:
                units = self._settled.units[self._index.slots(tensor, dim)]
                kinds = frozenset(np.unique(self._signatures[units]).tolist())
                produced = bool({"producer", "affine"} & roles)
                if len(kinds) == 1:
                    (alone if produced else readers).setdefault(min(kinds), number)
                elif produced:
                    mixed.append((kinds, number))
        for kind in sorted({kind for kinds, _ in mixed for kind in kinds} & readers.keys()):
            alone.setdefault(kind, readers[kind])
        covered, targets = set(alone), list(alone.values())
        for kinds, number in mixed:
            if not kinds <= covered:
                covered |= kinds
                targets.append(number)
        places = (self._index.places[number] for number in sorted(targets))
        return tuple(self.group(self._index.tensors[t], dim) for t, dim in places)

    def _members(self, slots: Ids, units: Ids, ordinals: Ids) -> tuple[Member, ...]:
        slots = np.sort(slots)
        places = self._place_of_slot[slots]
        ordinal = ordinals[np.searchsorted(units, self._settled.units[slots])]
        members = []
        for part in np.split(np.arange(len(slots)), np.flatnonzero(np.diff(places)) + 1):
            number = int(places[part[0]])
            t, dim = self._index.places[number]
            tensor = self._index.tensors[t]
            positions = np.full(tensor.shape[dim], -1, dtype=np.int64)
            positions[slots[part] - self._index.starts[number]] = ordinal[part]
            positions.setflags(write=False)
            roles = tuple(role for role in PRECEDENCE if role in self._roles.get(number, {}))
            role = roles[0] if roles else _role_by_name(tensor)
            members.append(Member(tensor.name, dim, tensor.module, role, roles or (role,), positions))
        return tuple(members)

    def _pins_of(self, units: Ids) -> tuple[Pin, ...]:
        found = _ranges(self._pins.units, units)
        pins: dict[Pin, None] = {}
        for place, tag in _pairs(self._place_of_slot[self._pins.slots[found]], self._pins.tags[found]):
            t, dim = self._index.places[place]
            cause = self._settled.pins[tag][1]
            pins[Pin(self._index.tensors[t].name, dim, cause.reason, cause.module)] = None
        return tuple(pins)

    def _reductions_of(self, units: Ids) -> tuple[Reduction, ...]:
        tags = np.unique(self._reductions.tags[_ranges(self._reductions.units, units)])
        return tuple(Reduction(*self._settled.reductions[tag][1]) for tag in tags.tolist())

    def _unit_signatures(self) -> Ids:
        """For every unit (by its smallest slot) a number that only units share which touch the same places
        equally often. Signatures are 64-bit hashes of (place, count) pairs."""
        places = self._place_of_slot[self._order]
        keys = np.stack([self._sorted_units, places], axis=1)
        if not len(keys):
            return np.zeros(0, dtype=np.int64)
        order = np.lexsort((places, self._sorted_units))
        keys = keys[order]
        starts = np.flatnonzero(np.r_[True, (keys[1:] != keys[:-1]).any(axis=1)])
        counts = np.diff(np.r_[starts, len(keys)])
        words = _mixed(_mixed(keys[starts, 1].astype(np.uint64)) + counts.astype(np.uint64))
        signatures = np.zeros(len(self._settled.units), dtype=np.uint64)
        np.add.at(signatures, keys[starts, 0], words)
        return signatures.astype(np.int64)


def _role_by_name(tensor: TracedTensor) -> Role:
    """The role of what only weights met."""
    return "statistic" if tensor.name.rpartition(".")[2] in STATISTICS else "producer"


def _tagged(units: Ids, tagged: Sequence[Ids]) -> Tagged:
    if not tagged:
        empty = np.zeros(0, dtype=np.int64)
        return Tagged(empty, empty, empty)
    slots = np.concatenate(tagged)
    tags = np.repeat(np.arange(len(tagged)), [len(ids) for ids in tagged])
    order = np.argsort(units[slots], kind="stable")
    return Tagged(units[slots][order], slots[order], tags[order])


def _roles_by_place(index: SlotIndex, settled: Settled) -> dict[int, dict[Role, frozenset[str]]]:
    found: dict[int, dict[Role, set[str]]] = {}
    for ids, role, module in settled.roles:
        for number in np.unique(index.place_numbers(ids)).tolist():
            found.setdefault(number, {}).setdefault(role, set()).add(module)
    return {n: {role: frozenset(paths) for role, paths in roles.items()} for n, roles in found.items()}


def _ranges(sorted_keys: Ids, wanted: Ids) -> Ids:
    """The positions in a sorted array at which any of the wanted keys stands."""
    starts = np.searchsorted(sorted_keys, wanted, side="left")
    lengths = np.searchsorted(sorted_keys, wanted, side="right") - starts
    shifts = np.repeat(starts - np.r_[0, np.cumsum(lengths)[:-1]], lengths)
    positions: Ids = np.arange(len(shifts), dtype=np.int64) + shifts
    return positions


def _pairs(places: Ids, tags: Ids) -> Iterable[tuple[int, int]]:
    pairs = np.unique(np.stack([places, tags], axis=1), axis=0) if len(places) else np.zeros((0, 2), np.int64)
    yield from ((int(place), int(tag)) for place, tag in pairs)


def _mixed(
    words: np.ndarray[tuple[int, ...], np.dtype[np.uint64]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014): every input bit reaches every output bit."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
