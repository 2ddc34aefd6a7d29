"""What was asked of a width, and the plan of what answers it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from attrs import field, frozen

from esper_es.domain.surgery_commands import modify_layer_width
from esper_es.planning.scene import Plan, Scene
from esper_es.planning.widths.change import Resolved
from esper_es.planning.widths.config_update import ConfigUpdate, config_update
from esper_es.planning.widths.edits import Filled
from esper_es.planning.widths.importance import Importance
from esper_es.planning.widths.request import WidthRequest
from esper_es.planning.widths.spectral_norms import kept_norms
from esper_es.tracing import Trace, WidthGroup


@frozen(eq=False)
class Asked:
    """A width that was asked for.

    Attributes:
        scene: the model and its copy.
        found: the trace of the model as it is.
        request: the layer, and the size that it shall have.
        group: of the layer's channels.
        initialization: of new ones.
        importance: by which those are chosen that stay.
    """

    scene: Scene
    found: Trace
    request: WidthRequest
    group: WidthGroup
    initialization: str
    importance: Importance


@frozen(eq=False)
class Answer:
    """How a width changes.

    Attributes:
        resolved: all dimensions that change, the proof, and the attributes that go with it.
        done: the edits of tensors, and the tensors that they name.
        method: what was done about new entries and old ones, in a few words.
        new_width: of the layer asked for.
        units: before and after.
        kept: those that stay; None where all do.
        config: what the configuration becomes; None where it follows from what changes.
        reduced_by: operators that mix what changes, with the modules that run them.
        more: to be told besides.
    """

    resolved: Resolved
    done: Filled
    method: str
    new_width: int
    units: tuple[int, int]
    kept: tuple[int, ...] | None
    config: ConfigUpdate | None = None
    reduced_by: frozenset[str] = frozenset()
    more: dict[str, Any] = field(factory=dict)


def planned(asked: Asked, answer: Answer) -> Plan:
    """Return the plan: edits, facts, and what to tell."""
    resolved, tensors, group = answer.resolved, answer.done.tensors, asked.group
    resizings, attributes, proof = resolved.change.resizings, resolved.attributes, resolved.proof
    edits = (*answer.done.edits, *attributes)
    edits = (*edits, *kept_norms(asked.scene, edits, tensors))
    config = answer.config or config_update(asked.scene, resizings, edits, tensors)
    told: dict[str, Any] = {
        "layer_name": asked.request.layer,
        "old_width": group.size,
        "new_width": answer.new_width,
        "initialization": asked.initialization,
        "units": answer.units,
        "kept_units": answer.kept,
        "method": answer.method,
    }
    return Plan(
        edits=(*edits, *config.edits),
        tensors=tensors,
        details={
            **told,
            **answer.more,
            "resized": sorted({resizing.member.tensor for resizing in resizings}),
            "attributes": {f"{e.path}.{e.name}".lstrip("."): e.value for e in attributes},
            "reduced_by": sorted(answer.reduced_by),
            "config": dict(config.values),
            "config_note": config.note,
        },
        proof=lambda _: proof(),
        facts=partial(modify_layer_width, dimension=group.dim, **told),
    )


def mixing(groups: Iterable[WidthGroup]) -> frozenset[str]:
    """Say by what channels of groups are mixed, so that a change of their number changes the result."""
    return frozenset(f"{r.op} in {r.module or 'the model'}" for one in groups for r in one.reduced_by)
