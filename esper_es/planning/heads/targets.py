"""Which places inside of heads change with the size of a head: alone, with others of their attention, or in all layers.

What the code ties can't be seen in a trace. So the fewest come first, and the proof decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, takewhile

from attrs import evolve, frozen
from torch import nn

from esper_es.domain.architecture import relative_path
from esper_es.domain.errors import Refused
from esper_es.planning.attributes.options import CONFIG
from esper_es.planning.heads.rotary_tables import rotary_tables
from esper_es.planning.scene import Scene
from esper_es.planning.widths.request import WidthRequest
from esper_es.tracing import Member, Reading, Trace, WidthGroup, as_whole, readings, reads, sides_of_heads


@frozen(eq=False)
class HeadTarget:
    """Places in the heads of one attention, and how many there shall be.

    Attributes:
        heads: the group of the heads.
        kind: of the places.
        units: how many there shall be.
        beside: other kinds of places in the same heads, which stay.
        reading: how the channels of the one head that there is are taken for one; None where there are several.
    """

    heads: WidthGroup
    kind: WidthGroup
    units: int
    beside: tuple[WidthGroup, ...] = ()
    reading: Reading | None = None

    @property
    def size(self) -> int:
        """Channels of one head as it is."""
        return sum(kind.head_size for kind in (self.kind, *self.beside))

    @property
    def new_size(self) -> int:
        """Channels of one head as it shall be."""
        return self.size + (self.units - self.kind.units) * self.kind.per_head

    @property
    def turned(self) -> bool:
        """Whether rotary positions turn these channels, several of a head together."""
        return self.kind.per_head > 1

    @property
    def reads(self) -> bool:
        """Whether a layer reads these channels: those of values, which queries and keys only weigh."""
        return reads(self.kind)


@frozen(eq=False)
class Side:
    """All kinds of places of queries and keys, or those of values."""

    heads: WidthGroup
    kinds: tuple[WidthGroup, ...]
    reading: Reading | None = None

    @property
    def size(self) -> int:
        """Channels of one head."""
        return sum(kind.head_size for kind in self.kinds)

    @property
    def width(self) -> int:
        """Channels of all heads together, where each unit is one."""
        return self.heads.units * self.size

    @property
    def reads(self) -> bool:
        return reads(self.kinds[0])

    @property
    def taken_for_one(self) -> str:
        """What to say before anything is said of a head that nothing shows."""
        return "" if self.reading is None else "taken for one head, as nothing shows several: "

    def target(self, new: int) -> HeadTarget:
        """Return the places that come or go: of channels that nothing turns, where there are some.

        Raises:
            Refused: if there is no such number of places.
        """
        kind = min(reversed(self.kinds), key=lambda one: one.per_head)
        by = new - self.size
        if by % kind.per_head:
            sizes = {self.size + by // kind.per_head * kind.per_head + extra for extra in (0, kind.per_head)}
            raise Refused(
                f"{self.taken_for_one}the channels of a head of {self.heads.tensor} are turned {kind.per_head} at "
                f"a time by rotary positions: a head has {self.size} of them and can't have {new}; what comes nearest "
                f"is {' and '.join(str(size) for size in sorted(sizes - {self.size}) if size > 0)}",
                "width_unit",
            )
        units = kind.units + by // kind.per_head
        if units < 1:
            raise Refused(
                f"{self.taken_for_one}a head of {self.heads.tensor} can't have {new} channels: the trace finds "
                f"{self.size} in it, of which {kind.head_size} can go; the others are tied otherwise, as by rotary "
                "positions",
                "width_unit",
            )
        others = tuple(one for one in self.kinds if one is not kind)
        return HeadTarget(self.heads, kind, units, others, self.reading)


def head_targets(
    scene: Scene, found: Trace, request: WidthRequest, group: WidthGroup
) -> Iterator[tuple[HeadTarget, ...]]:
    """Yield what could change for heads of another size, the least first.

    Where one layer makes queries, keys and values, and the heads of values have another size, those of queries and keys
    are meant.

    Raises:
        Refused: if there are no heads in sight, they have the size already, or can't have it.
    """
    place = (group.tensor, group.dim)
    several = (s for one in _of_heads(found, group) if (s := _sides(found, one, place)))
    sides = next(several, None) or _of_the_one(found, group, place)
    own = [side for side in sides if any(kind.member(*place) for kind in side.kinds)]
    if not own:
        raise Refused(_no_heads(found, group), "heads")
    if len({side.size for side in own}) > 1:
        own = [side for side in own if not side.reads]
    size = own[0].size
    if size == request.width:
        alone = own[0].taken_for_one
        raise Refused(f"{alone}the heads of {request.layer!r} have {size} channels already", "same_width")
    targets = [side.target(request.width) for side in own]
    every = [side for side in sides if side.size == size]
    both = _targets(every, request.width) if len(own) < len(every) else []
    for one in (targets, both) if both else (targets,):
        yield from _everywhere(scene, found, one)
    for one in (targets, both) if both else (targets,):
        yield from _of_one_setting(scene, found, one)


def _targets(sides: Iterable[Side], size: int) -> list[HeadTarget]:
    """What would change with all of these sides; nothing where one of them can't have the size."""
    try:
        return [side.target(size) for side in sides]
    except Refused:
        return []


def _no_heads(found: Trace, group: WidthGroup) -> str:
    """Say that nothing shows heads, and what the trace says instead."""
    known = list(dict.fromkeys(f"{pin.tensor} dim {pin.dim} {pin.reason}" for pin in group.pins))
    if not known and group.units == 1 < group.size:
        known = [f"all of its {group.size} channels come and go as one{_cut(found, group)}"]
    said = f", but that {'; '.join(known)}" if known else ""
    return (
        f"nothing shows that {group.tensor} dim {group.dim} is made of heads, each of several channels{said}"
    )


def _cut(found: Trace, group: WidthGroup) -> str:
    """Say where code takes the parts of a unit one by one, as heads of which each has a norm of its own."""
    tensor = found.index.named(group.tensor)
    units, size = found.relations.units, found.index.size
    own = None if tensor is None else units[found.index.slots(tensor, group.dim)[0]]
    for ids, site in found.relations.cuts:
        inside = ids[(ids >= 0) & (ids < size)]
        if (units[inside] == own).any():
            return (
                f", as {site.op} in {site.module or 'the model'} cuts them into equal parts that the code takes one by "
                "one; what is at one place of every part would have to change in all of them, which is not tried"
            )
    return ""


def _of_heads(found: Trace, group: WidthGroup) -> Iterator[WidthGroup]:
    """The group itself, or of several kinds of units in it those that another dimension has alone; or groups of heads
    around it, for which it may be the one head of keys or values."""
    yield group
    if group.families > 1:
        yield from (found.group_of(member.tensor, member.dim) for member in group.members)
    around = group.tensor.rsplit(".", 2)[0]
    yield from (one for one in found.width_groups if one.tensor.rsplit(".", 2)[0] == around)


def _of_the_one(
    found: Trace, group: WidthGroup, place: tuple[str, int], like: Reading | None = None
) -> tuple[Side, ...]:
    """Both sides of an attention with one head.

    Args:
        like: of another attention, how its head was taken for one.
    """
    for reading in readings(found, group):
        if like is not None and reading[1:] != like[1:]:
            continue
        whole = as_whole(found, group.tensor, group.dim, reading)
        sides = () if whole is None else _sides(found, whole, place)
        if {side.reads for side in sides} == {True, False}:
            return tuple(evolve(side, reading=reading) for side in sides)
    return ()


def _everywhere(
    scene: Scene, found: Trace, targets: Sequence[HeadTarget]
) -> Iterator[tuple[HeadTarget, ...]]:
    """Targets of one attention; where a table turns them, and all that has its size, with this and all that."""
    turned = [target for target in targets if target.turned]
    if not turned:
        yield tuple(targets)
        yield tuple(_alike(found, targets, same_name=True, turned=False))
        return
    tables = rotary_tables(scene.live.module, found, turned[0].kind.units)
    around = ".".join(_shared(member.tensor for member in targets[0].heads.members))
    own = tuple(table for table in tables if relative_path(table.module, around) is not None)
    every = list(targets) if own else _alike(found, targets, same_name=False, turned=True)
    yield tuple(_once_each(every, own or tables))


def _of_one_setting(
    scene: Scene, found: Trace, targets: Sequence[HeadTarget]
) -> Iterator[tuple[HeadTarget, ...]]:
    """With targets of one attention the same ones of all others, where their size is a number of the settings that all
    modules share."""
    holder: nn.Module | None = scene.live.module
    for part in _shared(member.tensor for member in targets[0].heads.members):
        holder = getattr(holder, part)
    settings = vars(holder).get(CONFIG)
    shared = hasattr(settings, "__dict__") and targets[0].size in vars(settings).values()
    if shared and not any(target.turned for target in targets):
        every = _alike(found, targets, same_name=False, turned=False)
        if len(every) > len(targets):
            yield tuple(_once_each(every))


def _once_each(every: Sequence[HeadTarget], tables: Sequence[Member] = ()) -> Iterator[HeadTarget]:
    """The same targets, the first that is turned with the tables, and none with what an earlier one has too: layers
    may share what turns their heads, which changes once."""
    taken, left = list(tables), tuple(tables)
    for target in every:
        kept = tuple(m for m in target.kind.members if not any(_overlap(m, other) for other in taken))
        own, left = (left, ()) if target.turned else ((), left)
        taken += kept if target.turned else ()
        yield evolve(target, kind=evolve(target.kind, members=(*kept, *own)))


def _overlap(one: Member, other: Member) -> bool:
    same = (one.tensor, one.dim) == (other.tensor, other.dim)
    return same and bool(((one.positions >= 0) & (other.positions >= 0)).any())


def _alike(found: Trace, targets: Sequence[HeadTarget], *, same_name: bool, turned: bool) -> list[HeadTarget]:
    """Targets of one attention, and the same ones of all others.

    Args:
        same_name: whether others are only those at places that have the same names, but for numbers.
        turned: whether others are only those that rotary positions turn.
    """
    heads = targets[0].heads
    known = {(member.tensor, member.dim) for member in heads.members}
    every = list(targets)
    for group in found.width_groups:
        places = {(member.tensor, member.dim) for member in group.members}
        named = [place for place in places if _alike_in_name(place, heads)]
        if places & known or (same_name and not named):
            continue
        reading = targets[0].reading
        sides = _sides(found, group, min(named, default=None))
        if reading is not None:
            sides = _of_the_one(found, group, (group.tensor, group.dim), reading)
        added = [side for side in sides if any(_corresponds(side, target) for target in targets)]
        if added and not (turned and not any(_as(side, targets).turned for side in added)):
            known |= places | {(m.tensor, m.dim) for side in added for m in side.heads.members}
            every += [_as(side, targets) for side in added]
    return every


def _alike_in_name(place: tuple[str, int], heads: WidthGroup) -> bool:
    return (without_numbers(place[0]), place[1]) == (without_numbers(heads.tensor), heads.dim)


def _as(side: Side, targets: Sequence[HeadTarget]) -> HeadTarget:
    target = next(target for target in targets if _corresponds(side, target))
    by = (target.units - target.kind.units) * target.kind.per_head
    return side.target(side.size + by)


def _corresponds(side: Side, target: HeadTarget) -> bool:
    kind = min(reversed(side.kinds), key=lambda one: one.per_head)
    return (
        side.reads == target.reads
        and kind.per_head == target.kind.per_head
        and kind.units == target.kind.units
    )


def sides_of(found: Trace, group: WidthGroup) -> tuple[Side, ...]:
    """Return both sides of an attention whose heads a group is; none where it is no such group."""
    sides = _sides(found, group, (group.tensor, group.dim))
    return sides if {side.reads for side in sides} == {True, False} else ()


def _sides(found: Trace, group: WidthGroup, place: tuple[str, int] | None) -> tuple[Side, ...]:
    """The two sides of the attention that a place belongs to, or the first one, as far as their channels are in sight.

    Heads of several attentions may be one group, as those that share a table of position biases. Kinds of places
    belong to one attention if a module that holds one of them holds the other.
    """
    sides = sides_of_heads(found, group)
    kinds = list(chain(*sides))
    own = [_holder(kind) for kind in kinds if (kind is kinds[0] if place is None else kind.member(*place))]
    parted = (
        tuple(kind for kind in side if any(_around(holder, _holder(kind)) for holder in own))
        for side in sides
    )
    return tuple(Side(group, part) for part in parted if part)


def _holder(kind: WidthGroup) -> tuple[str, ...]:
    """Path of the innermost module that holds all tensors of a kind."""
    return _shared(member.tensor for member in kind.members)


def _shared(tensors: Iterable[str]) -> tuple[str, ...]:
    paths = [tensor.split(".")[:-1] for tensor in tensors]
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
    return tuple(parts[0] for parts in shared)


def _around(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    length = min(len(one), len(other))
    return one[:length] == other[:length]


def without_numbers(name: str) -> str:
    """Return a name that all layers of a stack have in common."""
    return re.sub(r"\d+", "", name)
