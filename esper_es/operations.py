"""The protocol of one structural change: decide, plan, try on a copy, capture, apply, commit, or undo it all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from attrs import Attribute, evolve, field, frozen

from esper_es.capture import store_capture
from esper_es.domain.canonical import Json
from esper_es.domain.envelope import Cause
from esper_es.domain.errors import Refused, UsageError
from esper_es.domain.facts import AlphaChanged, Fact, SeedAdvanced, StateCaptured, SurgeryRefused
from esper_es.domain.surgery_commands import Change
from esper_es.domain.whole_numbers import whole
from esper_es.effects import preserved
from esper_es.failpoints import reach
from esper_es.following import check_followers
from esper_es.noticing import compare, notice
from esper_es.parallel import in_the_way
from esper_es.planning.scene import Plan, Planner
from esper_es.projections.live.apply import apply_edits
from esper_es.projections.live.describe import describe
from esper_es.projections.live.journal import Journal
from esper_es.projections.live.material import Derived, Planned, Recorded
from esper_es.rehearsal import rehearsed
from esper_es.result import SurgeryResult
from esper_es.retention import release_old_captures
from esper_es.session import Session
from esper_es.stopwatch import Stopwatch

logger = logging.getLogger(__name__)


def arguments_as_json(arguments: Mapping[str, Any]) -> dict[str, Json]:
    """Return arguments as they go into a refusal: what JSON can't carry, by its printed form."""
    return {key: _as_json(value) for key, value in arguments.items() if key != "calibration"}


def _as_json(value: Any) -> Json:
    if isinstance(value, Mapping):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    if value is None or isinstance(value, (str, bool)):
        return value
    value = whole(value)
    finite = isinstance(value, (int, float)) and abs(value) < 2**63
    return value if finite else repr(value)


def _name(_: object, attribute: Attribute[str], value: object) -> None:
    if not isinstance(value, str):
        raise UsageError(f"layers and seeds go by names, which are strings; got {value!r}")


def _cause(_: object, attribute: Attribute[Cause], value: object) -> None:
    if not isinstance(value, Cause):
        raise UsageError(f"cause is an esper_es.Cause, got {value!r:.80}")


@frozen(kw_only=True)
class Request:
    """What somebody asks for.

    Attributes:
        operation: e.g. ``"add_layer"``.
        target: the layer or seed.
        arguments: for the record of a refusal.
        cause: who and why.
        settling: facts to commit together with a success, e.g. that a decision was applied.

    Raises:
        UsageError: if ``target`` is not a string, or ``cause`` no cause.
    """

    operation: str
    target: str = field(validator=_name)
    arguments: Mapping[str, Json] = field(converter=arguments_as_json)
    cause: Cause = field(validator=_cause)
    settling: tuple[Fact, ...] = ()


@torch.inference_mode(mode=False)
def perform(session: Session, request: Request, planner: Planner) -> SurgeryResult:
    """Carry out a structural change, or refuse it; a refusal is a fact too.

    Raises:
        UsageError: for misuse of the API, or a model that was changed behind the log's back; nothing is recorded.
        ConflictError, LedgerError, VaultError: when the change could not be recorded; the model is as before.
    """
    watch = Stopwatch()
    check_structure(session)
    check_followers(session)
    try:
        session.check_moment()
        with session.planned():
            rehearsal = rehearsed(session, request.operation, planner, watch)
        plan = rehearsal.plan
        plan.facts(session.state, Change(edits=plan.edits, effects=rehearsal.effects))
    except Refused as refusal:
        return refuse(session, request, refusal, watch)
    notice(session)
    capture = _captured(session, request, plan)
    watch.lap("capture")
    effects = evolve(rehearsal.effects, duration_ms=round(watch.total(), 3))
    facts = plan.facts(session.state, Change(edits=plan.edits, effects=effects, capture=capture))
    _apply_and_commit(session, request, plan, facts, watch)
    return SurgeryResult(
        success=True,
        operation=request.operation,
        version=session.state.version,
        details={
            "output_difference": effects.output_difference,
            "function_preserved": preserved(effects.output_difference),
            **plan.details,
        },
        undo_version=_undo_version(session, facts),
        timings_ms={**watch.phases, "total": watch.total()},
    )


def _undo_version(session: Session, facts: Sequence[Fact]) -> int | None:
    bases = [base for fact in facts if (base := getattr(fact, "base_capture", None)) is not None]
    return bases[0] if bases else None


def check_structure(session: Session) -> None:
    """Check that nobody changed the structure of the live module behind the log's back.

    Raises:
        UsageError: otherwise, naming modules that differ.
    """
    known, found = session.state.architecture, describe(session.live.module)
    if found.fits(known):
        return
    if (reason := in_the_way(session.live.module)) is not None:
        raise UsageError(reason)
    paths = {*known.nodes, *found.nodes}
    differing = sorted(path or "(root)" for path in paths if known.nodes.get(path) != found.nodes.get(path))
    raise UsageError(
        f"model {session.state.name!r} was changed outside of its run, which the log could not follow; it differs "
        f"in: {', '.join(differing[:5]) or 'shared modules, tied tensors or connections'}. Undo that, or roll back"
    )


def refuse(session: Session, request: Request, refusal: Refused, watch: Stopwatch) -> SurgeryResult:
    """Record a refusal and return it as a result."""
    notice(session)
    fact = SurgeryRefused(
        operation=request.operation,
        target=request.target,
        arguments=request.arguments,
        check=refusal.check,
        reason=refusal.reason,
    )
    session.commit((fact,), request.cause)
    logger.info("%s refused: %s", request.operation, refusal.reason)
    return SurgeryResult(
        success=False,
        operation=request.operation,
        version=session.state.version,
        details=dict(request.arguments),
        error=refusal.reason,
        check=refusal.check,
        timings_ms={**watch.phases, "total": watch.total()},
    )


def _captured(session: Session, request: Request, plan: Plan) -> StateCaptured | None:
    """Store the state before the change, and the tensors that it brings in."""
    if session.state.capture_policy.before_structural_change:
        captured = store_capture(session.live, session.vault, f"before {request.operation}", plan.tensors)
        compare(session, captured)
        return captured
    if plan.tensors:
        session.vault.put_tensors(dict(plan.tensors))
    return None


def _apply_and_commit(
    session: Session, request: Request, plan: Plan, facts: Sequence[Fact], watch: Stopwatch
) -> None:
    """Change the live model and record it; if either fails, neither happened."""
    journal = Journal()
    version = session.state.version
    try:
        apply_edits(session.live, plan.edits, Recorded(Planned(plan.tensors)), journal)
        reach("operation.applied")
        watch.lap("apply")
        envelopes = session.append((*facts, *request.settling), request.cause)
    except BaseException:
        if session.state.version == version:
            journal.undo()
        else:
            session.boundary.renew(session.live)
        raise
    session.boundary.renew(session.live)
    watch.lap("commit")
    session.publisher.publish(envelopes)
    release_old_captures(session)


def commit_edits(
    session: Session, facts: Sequence[Fact], cause: Cause, closing: Callable[[], tuple[Fact, ...]] = tuple
) -> None:
    """Commit facts that change no structure, after applying their edits; if either fails, neither happened.

    Args:
        session: the run.
        facts: to commit.
        cause: who and why.
        closing: makes facts that go behind them, once the edits are applied.

    Raises:
        UsageError: if an average that follows the model was changed by itself.
        ConflictError, LedgerError, VaultError: if they can't be recorded; the model is as before.
    """
    check_followers(session)
    journal = Journal()
    version = session.state.version
    try:
        for fact in facts:
            if isinstance(fact, (SeedAdvanced, AlphaChanged)):
                apply_edits(session.live, fact.edits, Derived(), journal)
        reach("operation.applied")
        envelopes = session.append((*facts, *closing()), cause)
    except BaseException:
        if session.state.version == version:
            journal.undo()
        raise
    session.publisher.publish(envelopes)
