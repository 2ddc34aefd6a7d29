"""Decisions, carried out: each adaptation type is one operation of the surgeon or of the seed orchestrator."""

from __future__ import annotations

from esper_es.domain.decisions import SEED_TYPES, AdaptationDecision
from esper_es.domain.envelope import Cause
from esper_es.domain.errors import Refused
from esper_es.domain.facts import DecisionReceived, DecisionSettled
from esper_es.noticing import notice
from esper_es.operations import Request, refuse
from esper_es.result import SurgeryResult
from esper_es.session import Session
from esper_es.stopwatch import Stopwatch
from esper_es.surgeon import ModelSurgeon


def apply_decision(session: Session, surgeon: ModelSurgeon, decision: AdaptationDecision) -> SurgeryResult:
    """Record a decision, carry it out, and record what came of it.

    Raises:
        UsageError: for a parameter that can never be right.
    """
    notice(session)
    session.commit((DecisionReceived(decision=decision),), _cause(decision, None))
    cause = _cause(decision, session.state.version)
    if decision.adaptation_type in SEED_TYPES:
        result = _not_yet(session, decision, cause)
    else:
        result = _surgery(session, surgeon, decision, cause)
    settled = DecisionSettled(
        decision_id=decision.decision_id,
        outcome="applied" if result.success else "refused",
        reason=result.error or "",
    )
    session.commit((settled,), cause)
    return result


def _not_yet(session: Session, decision: AdaptationDecision, cause: Cause) -> SurgeryResult:
    request = Request(
        operation=decision.adaptation_type,
        target=decision.layer_name,
        arguments=dict(decision.parameters),
        cause=cause,
    )
    reason = (
        f"decisions of type {decision.adaptation_type!r} are not carried out by this release; "
        "plant, germinate and advance seeds by run.seeds"
    )
    return refuse(session, request, Refused(reason, "adaptation_type"), Stopwatch())


def _cause(decision: AdaptationDecision, caused_by: int | None) -> Cause:
    return Cause(
        actor=decision.actor,
        reasoning=decision.reasoning,
        decision_id=decision.decision_id,
        confidence=decision.confidence,
        caused_by=caused_by,
    )


def _surgery(
    session: Session, surgeon: ModelSurgeon, decision: AdaptationDecision, cause: Cause
) -> SurgeryResult:
    parameters = decision.parameters
    layer = decision.layer_name
    if decision.adaptation_type == "add_neurons":
        width = parameters.get("new_width") or 2 * current_width(session, layer)
        return surgeon.modify_layer_width(
            layer_name=layer,
            new_width=width,
            initialization=parameters.get("initialization", "kaiming"),
            cause=cause,
        )
    if decision.adaptation_type == "add_layer":
        return surgeon.add_layer(
            after_layer=layer,
            new_layer=parameters["layer_spec"],
            layer_name=parameters.get("layer_name", f"{layer.rpartition('.')[2]}_expansion"),
            connection_type=parameters.get("connection_type", "sequential"),
            cause=cause,
        )
    if decision.adaptation_type == "remove_layer":
        return surgeon.remove_layer(
            layer_name=layer, bridge_strategy=parameters.get("bridge_strategy", "direct"), cause=cause
        )
    return surgeon.add_skip_connection(
        from_layer=parameters["from_layer"],
        to_layer=layer,
        connection_type=parameters.get("connection_type", "add"),
        cause=cause,
    )


def current_width(session: Session, layer: str) -> int:
    """Return the output width of a layer by the shape of its weight; 1 where it has none, so that surgery says why."""
    node = session.state.architecture.nodes.get(layer)
    weight = None if node is None else node.tensors.get("weight")
    return weight.shape[0] if weight is not None and weight.shape else 1
