"""What would happen to a width: a trial on a copy, of which nothing stays."""

from __future__ import annotations

from attrs import evolve

from esper_es.domain.errors import Refused, UsageError
from esper_es.planning.provenance import traced
from esper_es.planning.scene import Plan, Scene
from esper_es.planning.width import plan_width
from esper_es.planning.widths.request import WidthRequest
from esper_es.rehearsal import rehearsed
from esper_es.session import Session
from esper_es.shadow import on_a_copy
from esper_es.stopwatch import Stopwatch
from esper_es.tracing import Explanation, WidthGroup, head_size


def explained_width(session: Session, layer_name: str, dimension: str | int) -> Explanation:
    """Return an account of a width group; where nothing pins it, a copy is grown by one unit to see whether it can.

    Raises:
        UsageError: if the layer has no width.
    """
    if not isinstance(layer_name, str):
        raise UsageError(f"a layer goes by its path, which is a string; got {layer_name!r}")
    found = on_a_copy(session.live.module, lambda shadow: traced(shadow, session.examples))
    try:
        group = WidthRequest(layer_name, 1, "units", dimension).group(found)
    except Refused as refusal:
        raise UsageError(refusal.reason) from refusal
    if not group.free or group.unit_size < 1:
        return Explanation(group, None, head_size(found, group))
    return Explanation(group, _fixed(session, group), head_size(found, group))


def _fixed(session: Session, group: WidthGroup) -> str | None:
    """Return why one more unit can't be; None where it can."""

    def planner(scene: Scene) -> Plan:
        scene.state = evolve(scene.state, constraints=None)
        request = WidthRequest(group.tensor, group.units + 1, "units", group.dim)
        return plan_width(scene, request, "function_preserving")

    try:
        rehearsed(session, "modify_layer_width", planner, Stopwatch())
    except Refused as refusal:
        return refusal.reason
    return None
