"""Planning ``modify_layer_width``: everything that one channel touches grows or shrinks together."""

from __future__ import annotations

from esper_es.domain import rules
from esper_es.domain.errors import Refused
from esper_es.planning.heads.plan import plan_head_size, plan_of
from esper_es.planning.heads.planner import HeadChange, with_stream
from esper_es.planning.heads.targets import sides_of
from esper_es.planning.scene import Plan, Scene
from esper_es.planning.widths.asked import Answer, Asked, mixing, planned
from esper_es.planning.widths.change import FIXED, Resolved, looked_at, resolve, runs
from esper_es.planning.widths.companions import Target
from esper_es.planning.widths.gradmax import Loss
from esper_es.planning.widths.importance import Importance, l2_importance
from esper_es.planning.widths.initializations import check_initialization, initialized
from esper_es.planning.widths.lone_units import beside_the_one, down_to_one
from esper_es.planning.widths.parts import in_parts, width_of
from esper_es.planning.widths.request import HEAD_SIZE, WidthRequest
from esper_es.planning.widths.spectral_norms import steady
from esper_es.planning.widths.unreached import Unreached
from esper_es.tracing import Trace, WidthGroup, counts_heads

BY_HEADS = ("width_unit", "fixed_width", "coupled")
"""Checks of refusals of a stream that may change together with the size of heads."""


def plan_modify_layer_width(
    scene: Scene,
    *,
    layer_name: str,
    new_width: int,
    initialization: str,
    importance: Importance = l2_importance,
    unit: str = "channels",
    dimension: str | int = "out",
    loss: Loss | None = None,
) -> Plan:
    """Widen or narrow one dimension of a layer, if no limit forbids it.

    Raises:
        UsageError: for a wrong argument.
        Refused: if the layer has no such width, is pinned, or the width is no whole number of its units.
    """
    request = WidthRequest(layer_name, new_width, unit, dimension)
    check_initialization(initialization)
    rules.check_frequency(scene.state)
    scene.require_layer_or_tensor(layer_name)
    return plan_width(scene, request, initialization, importance, loss)


def plan_width(
    scene: Scene,
    request: WidthRequest,
    initialization: str,
    importance: Importance = l2_importance,
    loss: Loss | None = None,
) -> Plan:
    """Resolve a width into edits.

    The model is traced by execution to find what each channel feeds. What new entries hold is said by
    ``initialization``; narrowing keeps the units of largest importance, in their order. Integers that modules keep
    about their tensors follow, and the result is proven by a second trace.

    Raises: as ``plan_modify_layer_width``.
    """
    with steady(scene.live.module, scene.shadow):
        return _planned(scene, request, initialization, importance, loss)


def _planned(
    scene: Scene,
    request: WidthRequest,
    initialization: str,
    importance: Importance,
    loss: Loss | None,
) -> Plan:
    before = scene.trace()
    group = request.group(before)
    layer_name = request.layer
    unreached = Unreached(scene, before)
    unreached.require_none([group], layer_name)
    asked = Asked(scene, before, request, group, initialization, importance)
    if request.unit == HEAD_SIZE:
        return plan_head_size(asked)
    try:
        resolved = _resolved(asked)
    except Refused as refusal:
        if request.unit != "channels" or refusal.check not in BY_HEADS or group.unit_size != 1:
            raise
        return _with_larger_heads(asked, refusal)
    if scene.careful and request.unit == "channels" and not runs(scene, resolved):
        target = Target(group, request.units(group))
        larger = with_stream(asked, target)
        if isinstance(larger, HeadChange):
            return plan_of(asked, larger)
        if larger is not None:
            raise Refused(
                "the model does not run with this width alone; with heads of another size: " + larger.reason,
                FIXED,
            ) from larger
    change, attributes = resolved.change, resolved.attributes
    changed = {id(r.group): r.group for r in change.resizings}
    unreached.require_none([other for other in changed.values() if other is not group], layer_name)
    done = initialized(scene, initialization, change.resizings, attributes, loss)
    first = change.resizings[0]
    return planned(
        asked,
        Answer(
            resolved=resolved,
            done=done.filled,
            method=done.method,
            new_width=width_of(resolved, group),
            units=(first.group.units, first.units),
            kept=change.kept,
            reduced_by=mixing(changed.values()),
        ),
    )


def _with_larger_heads(asked: Asked, refusal: Refused) -> Plan:
    """Change a stream that the model's own code takes to be as wide as all heads together, by the size of these.

    Raises:
        Refused: as without, where heads are of no help, with what keeps them from it; with the widths that could be,
            where others can.
    """
    found, group = asked.found, asked.group
    target = Target(group, asked.request.units(group))
    change = with_stream(asked, target)
    if isinstance(change, HeadChange):
        return plan_of(asked, change)
    heads = next((sides[0].heads.units for g in found.width_groups if (sides := sides_of(found, g))), 0)
    near = target.units // heads * heads + heads if heads > 1 and target.units % heads else 0
    if near and isinstance(with_stream(asked, Target(group, near)), HeadChange):
        raise Refused(
            f"{refusal.reason}; with heads of another size, all multiples of {heads} do", refusal.check
        ) from refusal
    if change is not None and change.reason != refusal.reason:
        raise Refused(
            f"{refusal.reason}; with heads of another size: {change.reason}", refusal.check
        ) from change
    raise refusal


def _resolved(asked: Asked) -> Resolved:
    """Resolve a request for the units that the trace shows, or for heads where it shows none: there is but one.

    Raises:
        Refused: if neither can be.
    """
    scene, found, request, group = asked.scene, asked.found, asked.request, asked.group
    importance = asked.importance

    def units_of(group: WidthGroup) -> int:
        units = request.units(group)
        rules.check_width(scene.state, group.size, group.unit_size * units)
        return units

    shown = (group.compact and not group.paired) or (group.free and counts_heads(found, group))
    if request.unit == "heads" and not shown:
        resolved = beside_the_one(scene, found, group, units_of, importance)
        if resolved is None:
            raise Refused(f"nothing shows that {group.tensor} dim {group.dim} is made of heads", "heads")
        return resolved
    try:
        target = Target(group, units_of(group))
    except Refused as refusal:
        if request.unit == "channels" and refusal.check in ("pinned", "width_unit"):
            resolved = beside_the_one(scene, found, group, units_of, importance)
            if resolved is not None:
                return resolved
        raise
    if target.units == 1 and group.reduced_by:
        return _down_to_one(scene, found, target, importance)
    if request.unit != "channels" or group.families == 1:
        return resolve(scene, found, target, importance)
    return _of_parts(asked, target)


def _of_parts(asked: Asked, target: Target) -> Resolved:
    """Change a dimension whose units are of several kinds: the last ones if they grow, the least important if some go,
    or as the code shares them out.

    Raises:
        Refused: if that can't make up the width.
    """
    scene, group = asked.scene, asked.group
    try:
        resolved = resolve(scene, asked.found, target, asked.importance)
    except Refused:
        shared = in_parts(asked)
        if shared is None:
            raise
        return shared
    width = width_of(resolved, group)
    if width == asked.request.width and (not scene.careful or runs(scene, resolved)):
        return resolved
    return in_parts(asked, width if width != asked.request.width else None) or resolved


def _down_to_one(scene: Scene, found: Trace, target: Target, importance: Importance) -> Resolved:
    """Narrow to one unit what a norm mixes; where no trace proves it, by what a widening shows."""
    try:
        resolved = resolve(scene, found, target, importance)
        if looked_at(scene, resolved, resolved.proof) == ():
            return resolved
    except Refused:
        stepped = down_to_one(scene, found, target, importance)
        if stepped is None:
            raise
        return stepped
    return down_to_one(scene, found, target, importance) or resolved
