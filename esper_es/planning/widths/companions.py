"""Widths that a model's own code takes for one: ``y.view(batch, length, channels)`` with the channels of the input.

Which groups are meant can't be seen in a trace, where they are apart. But their sizes agree: so when a width can't
change alone, those that have the same size are changed with it, and the proof decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from esper_es.planning.resizing import Resizing
from esper_es.tracing import Member, Trace, WidthGroup

FAMILIES = 8
"""How many kinds of groups of the same size are looked at before a width counts as fixed."""


class Target(NamedTuple):
    """A group, and how many units it shall have."""

    group: WidthGroup
    units: int


class Family(NamedTuple):
    """Groups of the same size in repeated layers, whose units are alike: the residual stream, the heads of all layers.

    ``step`` is the number of channels of one unit, ``old`` and ``new`` are the size that all have and shall have;
    ``targets`` is empty where the new size is no whole number of their units.
    """

    step: int
    old: int
    new: int
    targets: tuple[Target, ...]


def families(found: Trace, resizings: Sequence[Resizing], *, beside: bool = False) -> tuple[Family, ...]:
    """Return the groups that have a size that changes, without those that change already, by their units; those with
    units of several kinds beside such ones only.

    Args:
        found: what feeds what.
        resizings: what changes.
        beside: whether groups may lie in one dimension side by side.
    """
    groups = {id(r.group): r.group for r in resizings}
    compound = {key: any(min(_lengths(m)) > g.units for m in g.members) for key, g in groups.items()}
    sizes = sorted({size for r in resizings for size in _sizes(r, compound[id(r.group)])})
    several = any(group.others or group.families > 1 for group in groups.values())
    taken = {place for r in resizings for m in r.group.members for place in _places(m, beside)}
    known: dict[tuple[tuple[int, int, int], str], list[Target]] = {}
    alike = tuple(group for group in found.width_groups if group.families == 1)
    for group in (*_of_several_kinds(found, alike), *alike) if several else alike:
        places = {place for m in group.members for place in _places(m, beside)}
        fitting = next(_fitting(group, sizes), None)
        if not group.free or places & taken or fitting is None:
            continue
        targets = known.setdefault((fitting, re.sub(r"\d+", "", group.tensor)), [])
        step, _, new = fitting
        if new % step == 0:
            targets.append(Target(group, new // step))
            taken |= places
    return tuple(Family(*size, tuple(targets)) for (size, _), targets in known.items())[:FAMILIES]


def _of_several_kinds(found: Trace, kinds: Sequence[WidthGroup]) -> Iterator[WidthGroup]:
    """Yield the groups of dimensions in which kinds of units lie beside other ones, one for each of the tensors."""
    for kind in kinds:
        beside = [m for m in kind.members if 0 < m.covered < len(m.positions)]
        wholes = (found.group_of(member.tensor, member.dim) for member in beside)
        yield from (whole for whole in wholes if whole.families > 1)


def _places(member: Member, beside: bool) -> Iterator[tuple[str, int, int]]:
    """What no other group may have, besides a dimension the first index in it."""
    yield member.tensor, member.dim, int(np.argmax(member.positions >= 0)) if beside else 0


def together(found: Sequence[Family]) -> Iterator[tuple[Target, ...]]:
    """What to change at the same time: everything of one size, then each family alone."""
    whole = [family for family in found if family.targets]
    if len(whole) > 1:
        yield tuple(target for family in whole for target in family.targets)
    for family in whole:
        yield family.targets


def _sizes(resizing: Resizing, compound: bool) -> Iterator[tuple[int, int]]:
    """Old and new number of all channels, and of those in one run; but not of units that have several channels.

    Beside units of other kinds it is also that of these together.
    """
    group = resizing.group
    for old in _lengths(resizing.member):
        if old % group.units == 0 and not (compound and old == group.units):
            yield old, old // group.units * resizing.units
    if group.others:
        yield resizing.old_size, resizing.new_size


def _fitting(group: WidthGroup, sizes: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Channels of one unit, old and new size, where one run of all units has a size that changes."""
    for member in group.members:
        for old, new in sizes:
            if old in _lengths(member) and old % group.units == 0 and old > 1:
                yield old // group.units, old, new


def _lengths(member: Member) -> set[int]:
    inside = member.positions[member.positions >= 0]
    runs = int((np.diff(inside) < 0).sum()) + 1
    return {len(inside), len(inside) // runs}
