"""The plan of another head size: edits, facts, and what to tell."""

from __future__ import annotations

from functools import partial

from esper_es.domain import rules
from esper_es.domain.surgery_commands import modify_layer_width
from esper_es.planning.config_update import ConfigUpdate, config_update
from esper_es.planning.head_size import HeadChange, head_change
from esper_es.planning.resizing import gathers
from esper_es.planning.scene import Plan, Scene
from esper_es.planning.spectral_norms import kept_norms
from esper_es.planning.unit_importance import Importance
from esper_es.planning.unreached import Unreached
from esper_es.planning.width_request import WidthRequest
from esper_es.tracing import Trace, WidthGroup


def plan_head_size(
    scene: Scene,
    found: Trace,
    request: WidthRequest,
    group: WidthGroup,
    initialization: str,
    importance: Importance,
) -> Plan:
    """Resolve another size of heads into edits.

    Raises:
        Refused: if the heads can't have it.
    """
    change = head_change(scene, found, request, group, initialization, importance)
    resizings, attributes = change.resolved.change.resizings, change.resolved.attributes
    new_width = len(gathers(resizings)[group.tensor, group.dim])
    rules.check_width(scene.state, group.size, new_width)
    others = [target.heads for target in change.targets if target.heads is not group]
    Unreached(scene, found).require_none(others, request.layer)
    own = change.targets[0]
    sizes = (own.size, request.width)
    edits = (*change.done.edits, *attributes)
    edits = (*edits, *kept_norms(scene, edits, change.done.tensors))
    config = _config(scene, change)
    proof = change.resolved.proof
    return Plan(
        edits=(*edits, *config.edits),
        tensors=change.done.tensors,
        details={
            "layer_name": request.layer,
            "old_width": group.size,
            "new_width": new_width,
            "units": sizes,
            "head_size": sizes,
            "initialization": initialization,
            "method": change.method,
            "resized": sorted({resizing.member.tensor for resizing in resizings}),
            "attributes": {f"{e.path}.{e.name}".lstrip("."): e.value for e in attributes},
            "reduced_by": [f"norm in {path}" for path in change.norms],
            "kept_units": change.kept[0],
            "config": dict(config.values),
            "config_note": config.note,
        },
        proof=lambda _: proof(),
        facts=partial(
            modify_layer_width,
            layer_name=request.layer,
            old_width=group.size,
            new_width=new_width,
            initialization=initialization,
            kept_units=change.kept[0],
            dimension=group.dim,
            units=sizes,
            method=change.method,
        ),
    )


def _config(scene: Scene, change: HeadChange) -> ConfigUpdate:
    """The configuration; not where rotary frequencies follow from it, as the old ones stay with the old channels."""
    resolved = change.resolved
    if any(kind.per_head > 1 for t in change.targets for kind in (t.kind, *t.beside)):
        return ConfigUpdate(
            note="rotary frequencies keep to their channels, and those that follow from the configuration do not"
        )
    return config_update(
        scene, resolved.change.resizings, (*change.done.edits, *resolved.attributes), change.done.tensors
    )
