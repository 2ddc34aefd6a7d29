"""A structural change, planned and tried on a copy of the model before the model itself is touched."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from attrs import evolve, frozen
from torch import nn

from esper_es.domain.architecture import Architecture
from esper_es.domain.edits import AddModule, Edit, ReplaceModule, ResizeTensor
from esper_es.domain.errors import Refused
from esper_es.domain.evolution import evolved
from esper_es.domain.facts import Effects
from esper_es.effects import effects_of, new_parameters
from esper_es.failpoints import reach
from esper_es.planning.routing_proof import routing_proof
from esper_es.planning.scene import Plan, Planner, Scene
from esper_es.projections.live import optimizer_state
from esper_es.projections.live.apply import apply_edits
from esper_es.projections.live.describe import describe
from esper_es.projections.live.journal import Journal
from esper_es.projections.live.live import Live
from esper_es.projections.live.material import Planned, Recorded
from esper_es.projections.live.names import tensor_at
from esper_es.session import Session
from esper_es.shadow import on_a_copy
from esper_es.stopwatch import Stopwatch
from esper_es.validators import Trial, ValidationResult
from esper_es.validators.baseline import baseline_of


@frozen(eq=False)
class Rehearsal:
    """A plan that was tried and found right, and what it did."""

    plan: Plan
    effects: Effects


def rehearsed(session: Session, operation: str, planner: Planner, watch: Stopwatch) -> Rehearsal:
    """Resolve a request into edits and try them on a copy.

    It builds on what earlier surgeries found out about the structure, and on the plan that is nearest. A refusal never
    rests on these alone: the model may have begun to do something else since, and may ask for more to change with what
    was asked for, so it is then tried again with more care.

    Raises:
        Refused: if the change can't be planned, does not fit, or is not valid.
    """
    hopeful = partial(_hopeful, session, operation, planner, watch)
    found = on_a_copy(session.live.module, hopeful)
    if found is None:
        session.memory.forget()
        careful = partial(_careful, session, operation, planner, watch)
        found = on_a_copy(session.live.module, careful)
    return found


def _hopeful(
    session: Session, operation: str, planner: Planner, watch: Stopwatch, shadow: nn.Module
) -> Rehearsal | None:
    """Try by what is known already; None if it may be refused for that alone."""
    scene = Scene(session.state, session.live, shadow, session.examples, session.memory)
    try:
        return _tried(session, scene, operation, planner, watch)
    except Refused:
        if not (scene.remembered or scene.untried):
            raise
        return None


def _careful(
    session: Session, operation: str, planner: Planner, watch: Stopwatch, shadow: nn.Module
) -> Rehearsal:
    scene = Scene(session.state, session.live, shadow, session.examples, session.memory, careful=True)
    return _tried(session, scene, operation, planner, watch)


def _tried(session: Session, scene: Scene, operation: str, planner: Planner, watch: Stopwatch) -> Rehearsal:
    plan = planner(scene)
    reach("operation.planned")
    watch.lap("plan")
    before, shadow = session.state.architecture, scene.shadow
    after = _evolved(before, plan.edits)
    _check_optimizer(session.live, plan.edits)
    baseline = baseline_of(
        shadow, session.examples, session.live.optimizer, scene.observation, scene.gradients()
    )
    proof = plan.proof or routing_proof(scene, plan.edits)
    _try_edits(shadow, plan, after)
    trial = Trial(
        session.examples,
        baseline,
        plan.executes,
        session.live.optimizer,
        connections=before.connections,
    )
    verdicts = session.validators.validate_all(shadow, operation, trial=trial)
    _require_valid(verdicts)
    watch.lap("validate")
    if proof is not None and (findings := proof(shadow)):
        raise Refused(f"the change would mis-route channels: {'; '.join(findings[:3])}", "routing")
    watch.lap("prove")
    session.memory.learn(before.fingerprint, gradients=baseline.gradients)
    session.memory.learn(after.fingerprint, gradients=trial.gradients, trace=scene.proven)
    effects = effects_of(session.live, before, plan.edits, after, trial, shadow, verdicts)
    reach("operation.validated")
    return Rehearsal(evolve(plan, proof=None), effects)


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
        elif isinstance(edit, AddModule | ReplaceModule):
            for name, spec in new_parameters(edit).items():
                optimizer_state.check_joinable(live.optimizer, name, spec.shape)


def _try_edits(shadow: nn.Module, plan: Plan, after: Architecture) -> None:
    """Do the edits to the copy; what comes out must be what the log would say."""
    try:
        apply_edits(Live(shadow), plan.edits, Recorded(Planned(plan.tensors)), Journal())
    except (KeyError, ValueError, RuntimeError) as error:
        raise Refused(f"the planned edits do not fit the model: {error}", "edits") from error
    found = describe(shadow)
    if not found.fits(after):
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
