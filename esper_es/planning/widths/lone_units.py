"""A unit that is alone, or will be: the one head of an attention, which no trace can tell from its channels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from attrs import evolve

from esper_es.domain.canonical import Json
from esper_es.domain.edits import ScaleSlice, SetAttribute
from esper_es.domain.errors import Refused, UsageError
from esper_es.domain.index_map import IndexMap
from esper_es.effects import output_difference
from esper_es.planning.attributes.repair import adapted
from esper_es.planning.observation import observe
from esper_es.planning.resizing import gathers
from esper_es.planning.scene import Scene
from esper_es.planning.trial import tolerance, tried, tried_blank
from esper_es.planning.widths.change import Change, Resolved, change_of, looked_at, solved_for
from esper_es.planning.widths.companions import Target
from esper_es.planning.widths.importance import Importance
from esper_es.planning.widths.proof import proof_of_one
from esper_es.tracing import Member, Reading, Trace, WidthGroup, as_whole, readings, readings_beside, weighing
from esper_es.tracing.readings import GROUPED


def beside_the_one(
    scene: Scene, found: Trace, group: WidthGroup, units: Callable[[WidthGroup], int], importance: Importance
) -> Resolved | None:
    """Return how units come to the one that all channels around a group are together; None where nothing shows that
    they are one.

    Args:
        units: says how many such units there shall be, or refuses.
    """
    known = []
    for reading in chain(readings(found, group), _weighing(scene, found, group)):
        whole = as_whole(found, group.tensor, group.dim, reading)
        if whole is None:
            continue
        for others in ((), _repeated(found, group, reading)):
            try:
                targets = [Target(each, units(each)) for each in (whole, *others)]
                if reading.thin:
                    targets = _seen_in_use(scene, found, targets, importance)
                change = change_of(scene, found, targets, importance, _read_alike(found, reading))
                if (maps := gathers(change.resizings)) in known:
                    continue
                known.append(maps)
                solved = solved_for(scene, found, change)
            except Refused:
                continue
            if looked_at(scene, solved, solved.proof) == ():
                return evolve(solved, change=_as_traced(change, scene.proven))
    return None


def _seen_in_use(
    scene: Scene, found: Trace, targets: Sequence[Target], importance: Importance
) -> list[Target]:
    """Put in what dimensions do that show it only where they are longer than 1.

    Raises:
        Refused: if the model does not run with them.
    """
    change = change_of(scene, found, targets, importance)
    try:
        after = tried_blank(
            scene.shadow, change.resizings, adapted(scene.live.module, change.resizings), scene.trace_again
        )
    except UsageError as error:
        raise Refused(str(error), "heads") from error
    return [
        Target(evolve(group, members=tuple(_as_seen(after, member) for member in group.members)), units)
        for group, units in targets
    ]


def _as_seen(after: Trace, member: Member) -> Member:
    seen = after.group_of(member.tensor, member.dim).member(member.tensor, member.dim)
    return member if seen is None else evolve(member, role=seen.role, roles=seen.roles)


def _weighing(scene: Scene, found: Trace, group: WidthGroup) -> Iterator[Reading]:
    """Readings by the values that products weigh, where these values are all that the products change; and by the one
    group of a norm."""
    judged: dict[frozenset[int], bool] = {}
    for reading in readings_beside(found, group):
        if reading.units not in judged:
            judged[reading.units] = _weighs(scene, found, group, reading)
        if judged[reading.units]:
            yield reading


def _weighs(scene: Scene, found: Trace, group: WidthGroup, reading: Reading) -> bool:
    """Whether the outputs do not depend on what is summed over in pairs while nothing reads the values; of what is not
    summed over, whether a norm takes it for a group."""
    made, read = (
        [ScaleSlice(*place, IndexMap.of(indices.tolist()), 0.0) for place, indices in places.items()]
        for places in weighing(found, reading)
    )
    if not made:
        return any(reduction.op == GROUPED for reduction in group.reduced_by)
    if not read:
        return False
    unread = tried(scene.shadow, read, {}, lambda: observe(scene.shadow, scene.examples).outputs)
    neither = tried(scene.shadow, [*read, *made], {}, lambda: observe(scene.shadow, scene.examples).outputs)
    changed = output_difference(unread, neither)
    return changed is not None and changed <= tolerance(scene)


def _repeated(found: Trace, group: WidthGroup, reading: Reading) -> tuple[WidthGroup, ...]:
    """The same layer where it is repeated: the model's code may count the units of all by one number."""
    alike = _read_alike(found, reading)
    name = re.sub(r"\d+", "", group.tensor)
    repeated = (
        t.name for t in found.tensors if t.name != group.tensor and re.sub(r"\d+", "", t.name) == name
    )
    groups = [found.group_of(tensor, group.dim) for tensor in repeated]
    return tuple(whole for each in groups if (whole := alike(each)).whole)


def _read_alike(found: Trace, reading: Reading) -> Callable[[WidthGroup], WidthGroup]:
    """Other layers are read like the first."""

    def alike(group: WidthGroup) -> WidthGroup:
        for other in (readings_beside if reading.units else readings)(found, group):
            if other.is_like(reading):
                return as_whole(found, group.tensor, group.dim, other) or group
        return group

    return alike


def _as_traced(change: Change, after: Trace | None) -> Change:
    """Put in what only the trace of several units tells: what mixes them."""
    assert after is not None
    groups = {}
    for group in {id(r.group): r.group for r in change.resizings}.values():
        seen = after.group_of(group.tensor, group.dim)
        groups[id(group)] = evolve(group, reduced_by=seen.reduced_by, paired=seen.paired)
    return evolve(change, resizings=tuple(evolve(r, group=groups[id(r.group)]) for r in change.resizings))


def down_to_one(scene: Scene, found: Trace, target: Target, importance: Importance) -> Resolved | None:
    """Return how a group narrows to one unit by what another unit more would do; None where that does not tell.

    Where a norm mixes all units, neither a trace nor the outputs say whether the unit that is left is taken for one.
    But a trace proves how attributes follow the number of units where there are more of them, and the same step, as
    often as needed, leads down to one.
    """
    step = (Target(target.group, target.group.units + 1),)
    try:
        more = solved_for(scene, found, change_of(scene, found, step, importance))
        change = change_of(scene, found, (target,), importance)
    except Refused:
        return None
    if looked_at(scene, more, more.proof) != ():
        return None
    known = adapted(scene.live.module, change.resizings)
    of_adapters = {(e.path, e.name) for e in (*known, *adapted(scene.live.module, more.change.resizings))}
    searched = [edit for edit in more.attributes if (edit.path, edit.name) not in of_adapters]
    attributes = tuple(_stepped_down(scene, searched, target.group.units - 1))
    if len(attributes) < len(searched):
        return None
    solved = Resolved(change, proof_of_one(scene, found, change.resizings), (*known, *attributes))
    return solved if looked_at(scene, solved, solved.proof) == () else None


def _stepped_down(scene: Scene, edits: list[SetAttribute], steps: int) -> Iterator[SetAttribute]:
    """Edits that take away as often as needed what the given ones add; those left out that can't."""
    for edit in edits:
        old = vars(scene.live.module.get_submodule(edit.path)).get(edit.name)
        value = _less(old, edit.value, steps)
        if value is not None:
            yield SetAttribute(edit.path, edit.name, value)


def _less(old: object, more: Json, steps: int) -> Json | None:
    if type(old) is int and type(more) is int:
        return old - (more - old) * steps if old > (more - old) * steps else None
    if isinstance(old, list | tuple) and isinstance(more, list | tuple) and len(old) == len(more):
        parts = [_less(a, b, steps) for a, b in zip(old, more, strict=True)]
        return None if None in parts else parts
    return None
