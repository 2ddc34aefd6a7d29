"""How facts about a model, its environment, its decisions and its epochs become rows."""

from __future__ import annotations

import attrs
from sqlalchemy import bindparam, func, select, update

from esper_es.domain.envelope import Envelope
from esper_es.domain.evolution import evolved
from esper_es.domain.facts import (
    DecisionReceived,
    DecisionSettled,
    Environment,
    EpochEnded,
    ModelRegistered,
    RunResumed,
)
from esper_es.projections.audit.log_tables import decisions, environments, epoch_metrics, epochs, models
from esper_es.projections.audit.structure import begin_architecture
from esper_es.projections.audit.writer import Writer, model_key

_of_same_decision = decisions.alias()
_SETTLE = (
    update(decisions)
    .where(
        decisions.c.model_id == bindparam("model"),
        decisions.c.version
        == select(func.max(_of_same_decision.c.version))
        .where(
            _of_same_decision.c.model_id == bindparam("model"),
            _of_same_decision.c.decision_id == bindparam("decision"),
        )
        .scalar_subquery(),
    )
    .values(settled_version=bindparam("by"), outcome=bindparam("came"), outcome_reason=bindparam("why"))
)


def register_model(writer: Writer, envelope: Envelope, fact: ModelRegistered) -> None:
    architecture = evolved(fact.base.architecture, fact.edits)
    origin, origin_version = fact.forked_from or (None, None)
    writer.add_model(
        models,
        envelope,
        name=fact.name,
        registered_at=envelope.at,
        blueprint=fact.base.blueprint,
        blueprint_arguments=dict(fact.base.arguments),
        forked_from_name=origin,
        forked_from_version=origin_version,
        parameters=architecture.parameter_count,
        bytes=architecture.nbytes,
        memory_bytes=fact.base.memory_bytes,
        constraints=attrs.asdict(fact.constraints) if fact.constraints else None,
        capture_policy=attrs.asdict(fact.capture),
        watch_policy=attrs.asdict(fact.watch) if fact.watch else None,
        lifecycle=fact.lifecycle.name,
        lifecycle_version=fact.lifecycle.version,
        initial_stage=fact.lifecycle.initial,
    )
    _add_environment(writer, envelope, fact.environment)
    begin_architecture(writer, envelope, architecture)


def resume_run(writer: Writer, envelope: Envelope, fact: RunResumed) -> None:
    _add_environment(writer, envelope, fact.environment)


def _add_environment(writer: Writer, envelope: Envelope, environment: Environment) -> None:
    writer.add(environments, envelope, **attrs.asdict(environment))


def end_epoch(writer: Writer, envelope: Envelope, fact: EpochEnded) -> None:
    writer.add(epochs, envelope, epoch=fact.epoch, step=fact.step)
    for metric, value in fact.metrics.items():
        writer.add(epoch_metrics, envelope, metric=metric, value=value)


def receive_decision(writer: Writer, envelope: Envelope, fact: DecisionReceived) -> None:
    decision = fact.decision
    writer.add(
        decisions,
        envelope,
        decision_id=decision.decision_id,
        layer=decision.layer_name,
        adaptation_type=decision.adaptation_type,
        confidence=decision.confidence,
        urgency=decision.urgency,
        parameters=dict(decision.parameters),
        reasoning=decision.reasoning,
        actor=decision.actor,
        metadata=dict(decision.metadata),
        decided_at=decision.timestamp,
        settled_version=None,
        outcome=None,
        outcome_reason=None,
    )


def settle_decision(writer: Writer, envelope: Envelope, fact: DecisionSettled) -> None:
    settled = {
        "model": model_key(envelope),
        "decision": fact.decision_id,
        "by": envelope.version,
        "came": fact.outcome,
        "why": fact.reason,
    }
    writer.write().execute(_SETTLE, settled)
