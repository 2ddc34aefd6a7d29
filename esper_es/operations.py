"""The protocol of one structural change: decide, plan, try on a copy, capture, apply, commit, or undo it all."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from attrs import Attribute, define, evolve, field, frozen
from torch import nn

from esper_es.capture import store_capture
from esper_es.domain.architecture import Architecture
from esper_es.domain.canonical import Json
from esper_es.domain.edits import Edit, ResizeTensor
from esper_es.domain.envelope import Cause
from esper_es.domain.errors import Refused, UsageError
from esper_es.domain.evolution import evolved
from esper_es.domain.facts import AlphaChanged, Effects, Fact, SeedAdvanced, StateCaptured, SurgeryRefused
from esper_es.domain.surgery_commands import Change
from esper_es.effects import effects_of
from esper_es.failpoints import reach
from esper_es.following import check_followers
from esper_es.noticing import compare, notice
from esper_es.planning.scene import Plan, Planner, Scene
from esper_es.projections.live import optimizer_state
from esper_es.projections.live.apply import apply_edits
from esper_es.projections.live.describe import describe
from esper_es.projections.live.journal import Journal
from esper_es.projections.live.live import Live
from esper_es.projections.live.material import Derived, Planned, Recorded
from esper_es.projections.live.names import tensor_at
from esper_es.result import SurgeryResult
from esper_es.retention import release_old_captures
from esper_es.session import Session
from esper_es.shadow import shadow_of
from esper_es.validators import Trial, ValidationResult
from esper_es.validators.baseline import baseline_of

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
    finite = isinstance(value, (int, float)) and abs(value) < 2**63
    return value if finite else repr(value)


def _name(_: object, attribute: Attribute[str], value: object) -> None:
    if not isinstance(value, str):
        raise UsageError(f"layers and seeds go by names, which are strings; got {value!r}")


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
        UsageError: if ``target`` is not a string.
    """

    operation: str
    target: str = field(validator=_name)
    arguments: Mapping[str, Json] = field(converter=arguments_as_json)
    cause: Cause
    settling: tuple[Fact, ...] = ()


@define
class Stopwatch:
    """Milliseconds by phase."""

    _started: float = field(factory=time.perf_counter)
    _last: float = field(factory=time.perf_counter)
    phases: dict[str, float] = field(factory=dict)

    def lap(self, phase: str) -> None:
        """End a phase."""
        moment = time.perf_counter()
        self.phases[phase] = (moment - self._last) * 1e3
        self._last = moment

    def total(self) -> float:
        """Milliseconds since the start."""
        return (time.perf_counter() - self._started) * 1e3


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
        plan, effects = _planned(session, request, planner, watch)
        change = Change(edits=plan.edits, effects=effects)
        plan.facts(session.state, change)
    except Refused as refusal:
        return refuse(session, request, refusal, watch)
    notice(session)
    capture = _captured(session, request, plan)
    watch.lap("capture")
    effects = evolve(effects, duration_ms=round(watch.total(), 3))
    facts = plan.facts(session.state, Change(edits=plan.edits, effects=effects, capture=capture))
    _apply_and_commit(session, request, plan, facts, watch)
    session.boundary.renew(session.live)
    return SurgeryResult(
        success=True,
        operation=request.operation,
        version=session.state.version,
        details={**plan.details, "output_difference": effects.output_difference},
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
    if found.fingerprint == known.fingerprint:
        return
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


def _planned(session: Session, request: Request, planner: Planner, watch: Stopwatch) -> tuple[Plan, Effects]:
    """Resolve the request into edits and try them on a copy."""
    shadow = shadow_of(session.live.module)
    scene = Scene(session.state, session.live, shadow, session.examples)
    plan = planner(scene)
    reach("operation.planned")
    watch.lap("plan")
    after = _evolved(session.state.architecture, plan.edits)
    _check_optimizer(session.live, plan.edits)
    before = baseline_of(
        shadow,
        session.examples,
        session.live.optimizer,
        scene.observation,
        session.gradients.get(session.state.architecture.fingerprint),
    )
    _try_edits(shadow, plan, after)
    trial = Trial(session.examples, before, plan.executes, session.live.optimizer)
    verdicts = session.validators.validate_all(shadow, request.operation, trial=trial)
    _require_valid(verdicts)
    if plan.proof is not None and (findings := plan.proof(shadow)):
        raise Refused(f"the change would mis-route channels: {'; '.join(findings[:3])}", "routing")
    session.gradients = {
        session.state.architecture.fingerprint: before.gradients,
        after.fingerprint: trial.gradients,
    }
    effects = effects_of(session.live, session.state.architecture, plan.edits, after, trial, shadow, verdicts)
    reach("operation.validated")
    watch.lap("validate")
    return plan, effects


def _evolved(architecture: Architecture, edits: Sequence[Edit]) -> Architecture:
    try:
        return evolved(architecture, edits)
    except ValueError as error:
        raise Refused(f"the planned edits do not fit the architecture: {error}", "architecture") from error


def _check_optimizer(live: Live, edits: Sequence[Edit]) -> None:
    if live.optimizer is None:
        return
    optimizer_state.check_separable(live.optimizer)
    for edit in edits:
        if isinstance(edit, ResizeTensor):
            optimizer_state.check_supported(live.optimizer, tensor_at(live.module, edit.tensor), edit.tensor)


def _try_edits(shadow: nn.Module, plan: Plan, after: Architecture) -> None:
    """Do the edits to the copy; what comes out must be what the log would say."""
    try:
        apply_edits(Live(shadow), plan.edits, Recorded(Planned(plan.tensors)), Journal())
    except (KeyError, ValueError, RuntimeError) as error:
        raise Refused(f"the planned edits do not fit the model: {error}", "edits") from error
    if describe(shadow).fingerprint != after.fingerprint:
        raise Refused(
            "the planned edits would make another architecture of the model than the log would tell of",
            "edits",
        )


def _require_valid(verdicts: Sequence[ValidationResult]) -> None:
    for verdict in verdicts:
        if not verdict.is_valid:
            raise Refused(
                f"validation {verdict.check_name!r}: {'; '.join(verdict.errors)}", verdict.check_name
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
        raise
    watch.lap("commit")
    session.publisher.publish(envelopes)
    release_old_captures(session)


def commit_edits(session: Session, facts: Sequence[Fact], cause: Cause) -> None:
    """Commit facts that change no structure, after applying their edits; if either fails, neither happened.

    Raises:
        UsageError: if an average that follows the model was changed by itself.
        ConflictError, LedgerError: if they can't be recorded; the model is as before.
    """
    check_followers(session)
    journal = Journal()
    version = session.state.version
    try:
        for fact in facts:
            if isinstance(fact, (SeedAdvanced, AlphaChanged)):
                apply_edits(session.live, fact.edits, Derived(), journal)
        reach("operation.applied")
        envelopes = session.append(facts, cause)
    except BaseException:
        if session.state.version == version:
            journal.undo()
        raise
    session.publisher.publish(envelopes)
