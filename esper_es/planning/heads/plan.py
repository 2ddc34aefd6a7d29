"""The plan of another head size: edits, facts, and what to tell."""

from __future__ import annotations

from functools import partial

from esper_es.domain import rules
from esper_es.domain.surgery_commands import modify_layer_width
from esper_es.planning.heads.planner import HeadChange, head_change
from esper_es.planning.resizing import gathers
from esper_es.planning.scene import Plan, Scene
from esper_es.planning.widths.config_update import ConfigUpdate, config_update
from esper_es.planning.widths.importance import Importance
from esper_es.planning.widths.request import WidthRequest
from esper_es.planning.widths.spectral_norms import kept_norms
from esper_es.planning.widths.unreached import Unreached
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
    return plan_of(
        scene,
        found,
        request.layer,
        group,
        head_change(scene, found, request, group, initialization, importance),
        initialization,
    )


def plan_of(
    scene: Scene, found: Trace, layer: str, group: WidthGroup, change: HeadChange, initialization: str
) -> Plan:
    """Return the plan of a change that gives heads another size.

    Args:
        layer: asked for.
        group: of its channels.
        change: what changes.
        initialization: asked for.
    """
    resizings, attributes = change.resolved.change.resizings, change.resolved.attributes
    gather = gathers(resizings)[group.tensor, group.dim]
    rules.check_width(scene.state, group.size, len(gather))
    beside = [r.group for r in resizings if not r.group.head_size]
    touched = {id(one): one for one in (*(target.heads for target in change.targets), *beside)}
    Unreached(scene, found).require_none([one for one in touched.values() if one is not group], layer)
    own = change.targets[0]
    heads = (own.size, own.new_size)
    asked_for_heads = all(one is not group for one in beside)
    units = heads if asked_for_heads else (group.size, len(gather))
    kept = change.kept[0] if asked_for_heads or change.kept[0] is None else tuple(gather)
    edits = (*change.done.edits, *attributes)
    edits = (*edits, *kept_norms(scene, edits, change.done.tensors))
    config = _config(scene, change)
    proof = change.resolved.proof
    reduced_by = {f"{r.op} in {r.module or 'the model'}" for one in beside for r in one.reduced_by}
    return Plan(
        edits=(*edits, *config.edits),
        tensors=change.done.tensors,
        details={
            "layer_name": layer,
            "old_width": group.size,
            "new_width": len(gather),
            "units": units,
            "head_size": heads,
            "initialization": initialization,
            "method": change.method,
            "resized": sorted({resizing.member.tensor for resizing in resizings}),
            "attributes": {f"{e.path}.{e.name}".lstrip("."): e.value for e in attributes},
            "reduced_by": sorted(reduced_by | {f"norm in {path}" for path in change.norms}),
            "kept_units": kept,
            "config": dict(config.values),
            "config_note": config.note,
        },
        proof=lambda _: proof(),
        facts=partial(
            modify_layer_width,
            layer_name=layer,
            old_width=group.size,
            new_width=len(gather),
            initialization=initialization,
            kept_units=kept,
            dimension=group.dim,
            units=units,
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
