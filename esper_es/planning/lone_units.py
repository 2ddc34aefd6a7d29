"""A unit that is alone, or will be: the one head of an attention, which no trace can tell from its channels."""

from __future__ import annotations

from collections.abc import Callable

from attrs import evolve

from esper_es.domain.errors import Refused
from esper_es.planning.companions import Target
from esper_es.planning.resizing import gathers
from esper_es.planning.scene import Scene
from esper_es.planning.unit_importance import Importance
from esper_es.planning.width_change import Change, Resolved, change_of, looked_at, solved_for
from esper_es.tracing import Reading, Trace, WidthGroup, as_whole, readings


def beside_the_one(
    scene: Scene, found: Trace, group: WidthGroup, units: Callable[[WidthGroup], int], importance: Importance
) -> Resolved | None:
    """Return how units come to the one that all channels around a group are together; None where nothing shows that
    they are one.

    Args:
        units: says how many such units there shall be, or refuses.
    """
    known = []
    for reading in readings(found, group):
        whole = as_whole(found, group.tensor, group.dim, reading)
        if whole is None:
            continue
        try:
            target = Target(whole, units(whole))
            change = change_of(scene, found, (target,), importance, _read_alike(found, reading))
            if (maps := gathers(change.resizings)) in known:
                continue
            known.append(maps)
            solved = solved_for(scene, found, change)
        except Refused:
            continue
        if looked_at(scene, solved, solved.proof) == ():
            return evolve(solved, change=_as_traced(change, scene.proven))
    return None


def _read_alike(found: Trace, reading: Reading) -> Callable[[WidthGroup], WidthGroup]:
    """Other layers are read like the first."""

    def alike(group: WidthGroup) -> WidthGroup:
        for other in readings(found, group):
            if other[1:] == reading[1:]:
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
