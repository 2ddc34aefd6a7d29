"""What changes with a width: the group, what adapters ask for besides, what the model's code ties to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import lcm

from attrs import frozen
from torch import nn

from esper_es.domain.edits import SetAttribute
from esper_es.domain.errors import Refused, UsageError
from esper_es.planning.attributes.repair import adapted, coupled
from esper_es.planning.attributes.search import searched
from esper_es.planning.capacity import require_room_to_grow
from esper_es.planning.observation import observe
from esper_es.planning.resizing import Resizing, grown, in_turn, shrunk
from esper_es.planning.scene import Scene
from esper_es.planning.trial import tried_blank
from esper_es.planning.widths.companions import Family, Target, families, together
from esper_es.planning.widths.importance import Importance, most_important
from esper_es.planning.widths.proof import Proof, width_proof
from esper_es.planning.widths.request import WidthRequest
from esper_es.tracing import Trace, WidthGroup

FIXED = "fixed_width"


@frozen(eq=False)
class Change:
    """All dimensions that change, and the units of the group asked for that stay; None when all do."""

    resizings: tuple[Resizing, ...]
    kept: tuple[int, ...] | None


@frozen(eq=False)
class Resolved:
    """A change, the proof that it is right, and the attributes that go with it."""

    change: Change
    proof: Proof
    attributes: tuple[SetAttribute, ...]


def resolve(scene: Scene, found: Trace, target: Target, importance: Importance) -> Resolved:
    """Return how a group changes; with others of its size where the model's code takes them for one.

    Raises:
        Refused: if it can't.
    """
    alone: Resolved | Refused
    first = change_of(scene, found, (target,), importance)
    try:
        alone = solved_for(scene, found, first)
        if not scene.careful:
            scene.untried = True
            return alone
        if runs(scene, alone):
            return alone
    except Refused as refusal:
        if refusal.check != FIXED:
            raise
        alone = refusal
    alike = families(found, first.resizings)
    beside = families(found, first.resizings, beside=True)
    for tried in (alike, beside) if beside != alike else (alike,):
        for others in together(tried):
            wider = solved_together(scene, found, (target, *others), importance)
            if wider is not None:
                return _fewest(scene, found, target, tried, importance, wider)
    _explain_step(scene, found, target, beside, importance)
    if isinstance(alone, Refused):
        raise alone
    return alone


def solved_for(scene: Scene, found: Trace, change: Change) -> Resolved:
    """Find the attributes that go with a change.

    Raises:
        Refused: if none are right.
    """
    proof = width_proof(scene, found, change.resizings)
    known = adapted(scene.live.module, change.resizings)
    run = partial(observe, scene.shadow, scene.examples)
    attributes = (*known, *searched(scene.shadow, change.resizings, known, run, proof))
    return Resolved(change, proof, attributes)


def solved_together(
    scene: Scene, found: Trace, targets: Sequence[Target], importance: Importance
) -> Resolved | None:
    """Change several groups at once; None where the proof forbids it."""
    try:
        solved = solved_for(scene, found, change_of(scene, found, targets, importance))
    except Refused:
        return None
    return solved if looked_at(scene, solved, solved.proof) == () else None


def _fewest(
    scene: Scene,
    found: Trace,
    target: Target,
    alike: Sequence[Family],
    importance: Importance,
    enough: Resolved,
) -> Resolved:
    """Leave out the families that need not change, one after another."""
    changed = {id(r.group) for r in enough.change.resizings}
    kept = [family for family in alike if any(id(t.group) in changed for t in family.targets)]
    for family in kept[:] if len(kept) > 1 else ():
        fewer = [other for other in kept if other is not family]
        targets = (target, *(t for other in fewer for t in other.targets))
        solved = solved_together(scene, found, targets, importance)
        if solved is not None:
            kept, enough = fewer, solved
    return enough


def _explain_step(
    scene: Scene,
    found: Trace,
    target: Target,
    alike: Sequence[Family],
    importance: Importance,
) -> None:
    """Say so where the width is no whole number of the units of what must change with it.

    Raises:
        Refused: naming widths that are.
    """
    group = target.group
    for family in alike:
        own = family.old // group.units
        if family.targets or not own:
            continue
        step = lcm(family.step, own)
        sizes = [size for size in (family.new // step * step, (family.new // step + 1) * step) if size]
        for size in sizes:
            if size != family.old and _possible(scene, found, Target(group, size // own), importance):
                widths = " and ".join(str(size // own * group.unit_size) for size in sizes)
                raise Refused(
                    f"the model's own code takes {group.tensor} dim {group.dim} to be as wide as layers whose channels "
                    f"come and go in units of {family.step}; the widths that come nearest and fit are {widths}",
                    "width_unit",
                )


def _possible(scene: Scene, found: Trace, target: Target, importance: Importance) -> bool:
    change = change_of(scene, found, (target,), importance)
    return any(
        solved_together(scene, found, (target, *others), importance) is not None
        for beside in (False, True)
        for others in together(families(found, change.resizings, beside=beside))
    )


def runs(scene: Scene, solved: Resolved) -> bool:
    """Say whether the copy runs with a change done on it."""
    try:
        looked_at(scene, solved, lambda: observe(scene.shadow, scene.examples))
    except Exception:  # noqa: BLE001  (whatever the model raises, it does not run like this)
        return False
    return True


def looked_at(scene: Scene, solved: Resolved, look: Callable[[], object]) -> object:
    """Look at the copy with the change done on it, new entries blank; None where it does not run."""
    try:
        return tried_blank(scene.shadow, solved.change.resizings, solved.attributes, look)
    except UsageError:
        return None


def change_of(
    scene: Scene,
    found: Trace,
    targets: Sequence[Target],
    importance: Importance,
    coupled_group: Callable[[WidthGroup], WidthGroup] = lambda group: group,
) -> Change:
    """Resize groups, and what adapters of the modules around them ask for besides.

    Args:
        coupled_group: what to take a group for that an adapter asks for.

    Raises:
        Refused: if one of them can't change as asked.
    """
    root: nn.Module = scene.live.module

    def resized(group: WidthGroup, units: int) -> tuple[tuple[Resizing, ...], tuple[int, ...] | None]:
        if units > group.units:
            kind = found.last_kind(group)
            wider = kind.units + units - group.units
            require_room_to_grow(scene.state, root, kind, wider)
            return grown(kind, wider), None
        kept = tuple(most_important(root, group, units, importance))
        return shrunk(group, kept), kept

    def resize(tensor: str, dim: int, size: int, why: str) -> Sequence[Resizing]:
        asked = coupled_group(found.group_of(tensor, dim))
        try:
            return resized(asked, WidthRequest(tensor, size, dimension=dim).units(asked))[0]
        except (Refused, UsageError) as error:
            raise Refused(f"{why}, but: {error}", "coupled") from error

    changed = [resized(group, units) for group, units in targets]
    first = in_turn(resizing for resizings, _ in changed for resizing in resizings)
    return Change(coupled(root, first, resize), changed[0][1])
