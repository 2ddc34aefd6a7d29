"""How surgeries, refusals and trials become rows."""

from __future__ import annotations

from typing import Any

from esper_es.domain.canonical import Json
from esper_es.domain.envelope import Envelope
from esper_es.domain.facts import (
    LayerAdded,
    LayerRemoved,
    LayerWidthModified,
    SkipConnectionAdded,
    SkipConnectionRemoved,
    StructuralFact,
    SurgeryRefused,
    WatchClosed,
    WatchOpened,
)
from esper_es.projections.audit.structure import follow_edits
from esper_es.projections.audit.surgery_tables import (
    optimizer_effects,
    surgeries,
    validator_verdicts,
    watch_verdicts,
    watches,
)
from esper_es.projections.audit.writer import Writer


def add_layer(writer: Writer, envelope: Envelope, fact: LayerAdded) -> None:
    details: dict[str, Json] = {
        "after_layer": fact.after_layer,
        "connection_type": fact.connection_type,
        "kind": fact.kind,
    }
    change_structure(writer, envelope, fact, "add_layer", fact.layer_name, details)


def remove_layer(writer: Writer, envelope: Envelope, fact: LayerRemoved) -> None:
    details: dict[str, Json] = {
        "bridge_strategy": fact.bridge_strategy,
        "adapter_added": fact.adapter_added,
        "bridge_r2": fact.bridge_r2,
    }
    change_structure(writer, envelope, fact, "remove_layer", fact.layer_name, details)


def modify_width(writer: Writer, envelope: Envelope, fact: LayerWidthModified) -> None:
    details: dict[str, Json] = {
        "old_width": fact.old_width,
        "new_width": fact.new_width,
        "initialization": fact.initialization,
        "kept_units": None if fact.kept_units is None else list(fact.kept_units),
    }
    change_structure(writer, envelope, fact, "modify_layer_width", fact.layer_name, details)


def add_skip_connection(writer: Writer, envelope: Envelope, fact: SkipConnectionAdded) -> None:
    details: dict[str, Json] = {
        "from_layer": fact.from_layer,
        "connection_type": fact.connection_type,
        "connection": fact.connection_id,
        "projection": fact.projection,
    }
    change_structure(writer, envelope, fact, "add_skip_connection", fact.to_layer, details)


def remove_skip_connection(writer: Writer, envelope: Envelope, fact: SkipConnectionRemoved) -> None:
    details: dict[str, Json] = {"from_layer": fact.from_layer, "connection": fact.connection_id}
    change_structure(writer, envelope, fact, "remove_skip_connection", fact.to_layer, details)


def change_structure(
    writer: Writer,
    envelope: Envelope,
    fact: StructuralFact,
    operation: str,
    target: str,
    details: dict[str, Json],
) -> None:
    """Write a change of structure: what was done, what it did, and the architecture that it led to."""
    effects = fact.effects
    _add_surgery(
        writer,
        envelope,
        operation=operation,
        target=target,
        outcome="success",
        details=details,
        check_name=None,
        reason=None,
        state_restored=None,
        output_difference=effects.output_difference,
        parameters_before=effects.parameters_before,
        parameters_after=effects.parameters_after,
        bytes_before=effects.bytes_before,
        bytes_after=effects.bytes_after,
        memory_bytes=effects.memory_bytes,
        graph_depth=effects.graph_depth,
        duration_ms=effects.duration_ms,
        base_capture_version=fact.base_capture,
    )
    for tensor, effect in effects.optimizer.items():
        writer.add(optimizer_effects, envelope, tensor=tensor, effect=effect)
    for validator, verdict in effects.validators.items():
        writer.add(validator_verdicts, envelope, validator=validator, verdict=verdict)
    follow_edits(writer, envelope, fact.edits)


def refuse_surgery(writer: Writer, envelope: Envelope, fact: SurgeryRefused) -> None:
    _add_surgery(
        writer,
        envelope,
        operation=fact.operation,
        target=fact.target,
        outcome="refused",
        details=dict(fact.arguments),
        check_name=fact.check,
        reason=fact.reason,
        state_restored=fact.state_restored,
        output_difference=None,
        parameters_before=None,
        parameters_after=None,
        bytes_before=None,
        bytes_after=None,
        memory_bytes=None,
        graph_depth=None,
        duration_ms=None,
        base_capture_version=None,
    )


def _add_surgery(writer: Writer, envelope: Envelope, **values: Any) -> None:
    cause = envelope.cause
    writer.add(
        surgeries,
        envelope,
        **values,
        actor=cause.actor,
        reasoning=cause.reasoning,
        decision_id=cause.decision_id,
    )


def open_watch(writer: Writer, envelope: Envelope, fact: WatchOpened) -> None:
    writer.add(
        watches,
        envelope,
        subject_version=fact.subject_version,
        metric=fact.metric,
        mode=fact.mode,
        baseline=fact.baseline,
        minimum_score=fact.minimum_score,
        required_score=fact.required_score,
        until_epoch=fact.until_epoch,
    )


def close_watch(writer: Writer, envelope: Envelope, fact: WatchClosed) -> None:
    writer.add(
        watch_verdicts,
        envelope,
        subject_version=fact.subject_version,
        outcome=fact.outcome,
        observed=fact.observed,
        score=fact.score,
        reason=fact.reason,
    )
