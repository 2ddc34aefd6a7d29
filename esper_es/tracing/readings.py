"""Ways to take channels for one unit that stands alone: by the module that holds them, or by what weighs them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from esper_es.tracing.groups import WidthGroup
from esper_es.tracing.provenance import Trace
from esper_es.tracing.slots import TracedTensor
from esper_es.tracing.union_find import Ids

Place = tuple[str, int]

GROUPED = "aten.native_group_norm"
"""What takes channels for groups, of which there may be one."""
NEAR = 6
"""Groups that are looked at as what may belong to a unit besides the layer asked for."""
_VARIANTS = tuple(product((1, 2, 0), (True, False), (True, False), (True, False)))
LEVELS = 2
"""Modules around a layer that are looked at: an attention, and what holds its projections and its output."""


class Reading(NamedTuple):
    """How to take the channels of a module for one unit.

    Attributes:
        path: of the module; what is bound to nothing outside of it belongs to the unit.
        level: how many modules that would do as well lie inside of that.
        packed: how often the channels of a part that grows by itself begin anew in it, where several stand side by
            side in one tensor (queries, keys, values): twice where rotary positions turn the halves of a head together;
            0 if none does.
        single: whether dimensions of size 1 belong to it: the column of a table that has one for each head.
        scaled: whether what scales the channels belongs to it, or is the same for all units: the norm of a head.
        mixed: whether channels that a norm mixes belong to it, or are a stream beside: what keys are made from.
        beside: name, without numbers, of what belongs to it besides the layer asked for, where not all does that is
            bound to nothing outside of the module; empty for all.
        units: that these two have, by their smallest slots.
        thin: whether it is the dimensions of size 1 that belong to it, and no others: weights with a dimension for
            heads and another for their channels.
    """

    path: str
    level: int
    packed: int
    single: bool
    scaled: bool
    mixed: bool
    beside: str = ""
    units: frozenset[int] = frozenset()
    thin: bool = False

    def is_like(self, other: Reading) -> bool:
        """Whether another layer is read in the same way."""
        return self._replace(path="", units=frozenset()) == other._replace(path="", units=frozenset())


def readings(found: Trace, group: WidthGroup) -> Iterator[Reading]:
    """Ways to take the channels around a group for one unit, by the modules that hold all of it, innermost first.

    There are none if that holds nothing that products without weights are summed over, as queries are with keys.
    """
    path, level = group.tensor, 0
    while "." in path and level < LEVELS:
        path = path.rpartition(".")[0]
        if all(holds(path, member.tensor, found) for member in group.members):
            if not level and not any(holds(path, name, found) for name in _paired(found)):
                return
            if group.size == 1:
                yield Reading(path, level, 0, single=True, scaled=True, mixed=True, thin=True)
            for packed, single, scaled, mixed in _VARIANTS:
                yield Reading(path, level, packed, single, scaled, mixed)
            level += 1


def readings_beside(found: Trace, group: WidthGroup) -> Iterator[Reading]:
    """Ways to take the channels of a group and those of one other for one unit, whatever else their module holds: what
    queries and keys are summed over, and the values that their products weigh. What lies nearest comes first.

    All channels of a packed layer may be the unit without any other, and those that a norm takes for one group.
    """
    own = _units_of(found, group)
    paired = frozenset(found.relations.units[found.relations.paired].tolist())
    if own & paired and own - paired:
        yield from _read_together(found, group, group, own)
    if any(reduction.op == GROUPED for reduction in group.reduced_by):
        yield from _read_together(found, group, group, own)
    fitting = [
        (other, units)
        for other in found.width_groups
        if (units := _units_of(found, other)).isdisjoint(own)
        and ((other.free and units.isdisjoint(paired)) if own & paired else units <= paired)
    ]
    first = {tensor.name: number for number, tensor in enumerate(found.tensors)}
    fitting.sort(
        key=lambda each: (
            -len(_around(group, each[0])),
            abs(first[each[0].tensor] - first[group.tensor]),
        )
    )
    for other, units in fitting[:NEAR]:
        yield from _read_together(found, group, other, own | units)


def _read_together(
    found: Trace, group: WidthGroup, other: WidthGroup, units: frozenset[int]
) -> Iterator[Reading]:
    path, name = _around(group, other), re.sub(r"\d+", "", other.tensor)
    if all(holds(path, member.tensor, found) for each in (group, other) for member in each.members):
        for packed, single, scaled, mixed in _VARIANTS:
            yield Reading(path, 0, packed, single, scaled, mixed, name, units)


def counts_heads(found: Trace, group: WidthGroup) -> bool:
    """Whether units are heads though each is one index: weights make them along one dimension, and along another the
    channels of heads, which are summed over in pairs."""
    paired = found.index.place_numbers(np.unique(found.relations.paired))
    made = {
        (found.index.tensors[t].name, dim) for t, dim in (found.index.places[n] for n in np.unique(paired))
    }
    return not group.paired and any(
        member.role == "producer" and any(name == member.tensor and dim != member.dim for name, dim in made)
        for member in group.members
        if (tensor := found.index.named(member.tensor)) is not None and len(tensor.shape) > 2
    )


def _units_of(found: Trace, group: WidthGroup) -> frozenset[int]:
    slots = [
        found.index.slots(tensor, m.dim)[m.positions >= 0]
        for m in group.members
        if (tensor := found.index.named(m.tensor)) is not None
    ]
    return frozenset(found.relations.units[np.concatenate(slots)].tolist())


def _around(*groups: WidthGroup) -> str:
    """Path of the innermost module that holds all members of groups."""
    shared: list[str] = []
    paths = [member.module.split(".") for group in groups for member in group.members]
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def weighing(found: Trace, reading: Reading) -> tuple[dict[Place, Ids], dict[Place, Ids]]:
    """Return what makes the channels of a reading that are summed over in pairs, and what reads its other ones."""
    units = np.zeros(len(found.relations.units), dtype=bool)
    units[list(reading.units)] = True
    paired = np.zeros_like(units)
    paired[found.relations.units[found.relations.paired]] = True
    made, read = (units & paired)[found.relations.units], (units & ~paired)[found.relations.units]
    return _played(found, "producer", made), _played(found, "consumer", read)


def _played(found: Trace, wanted: str, flags: NDArray[np.bool_]) -> dict[Place, Ids]:
    """Indices of flagged slots that were seen in a role."""
    playing = np.zeros_like(flags)
    for ids, role, _ in found.relations.roles:
        if role == wanted:
            playing[ids] = True
    named = ((t.name, d, found.index.slots(t, d)) for t, d in places(found))
    flagged = {(name, d): np.flatnonzero((playing & flags)[slots]) for name, d, slots in named}
    return {place: indices for place, indices in flagged.items() if indices.size}


def holds(path: str, tensor: str, found: Trace) -> bool:
    """Whether a module has a tensor, and no module beside it has it too."""
    traced = found.index.named(tensor)
    return traced is not None and all(not path or name.startswith(f"{path}.") for name in traced.names)


def _paired(found: Trace) -> set[str]:
    """Names of the tensors whose channels are summed over in a product without weights."""
    places = np.unique(found.index.place_numbers(found.relations.paired)).tolist()
    return {found.index.tensors[found.index.places[place].tensor].name for place in places}


def places(found: Trace) -> Iterator[tuple[TracedTensor, int]]:
    yield from ((found.index.tensors[t], dim) for t, dim in found.index.places)
