"""Going back: the live run restored to an earlier version, bit for bit, as one more fact."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

import torch
from attrs import evolve

from esper_es.capture import LoadedCapture, store_capture
from esper_es.domain.envelope import Cause
from esper_es.domain.errors import IntegrityFailure, UsageError
from esper_es.domain.facts import EpochEnded, Fact, RolledBack, StateCaptured
from esper_es.domain.model import restorable
from esper_es.domain.state import ModelState, Restorable
from esper_es.failpoints import reach
from esper_es.fingerprints import fingerprint, state_fingerprint
from esper_es.noticing import compare, notice
from esper_es.parallel import in_the_way
from esper_es.projections.live.apply import apply_edits
from esper_es.projections.live.compiled_programs import let_programs_look_again
from esper_es.projections.live.describe import describe
from esper_es.projections.live.journal import Journal
from esper_es.projections.live.kept_tensors import forget_kept
from esper_es.projections.live.material import Recorded
from esper_es.projections.live.optimizer_state import holds_strangers
from esper_es.projections.live.realign import realign
from esper_es.projections.live.snapshot import of_other_kinds, put_back
from esper_es.rebuilding import blank_module, edits_by_version, inherited_edits
from esper_es.retention import release_old_captures
from esper_es.session import Session

logger = logging.getLogger(__name__)


@torch.inference_mode(mode=False)
def restore_live(
    session: Session, state: ModelState, source: Restorable, journal: Journal, fresh: Collection[str] = ()
) -> tuple[str, ...]:
    """Bring the live objects to a restorable version, in place.

    Everything is loaded and verified before anything is touched.

    Returns:
        Random generators that could not be put back, with the reason.

    Raises:
        UsageError: if something holds on to the model's parameters as they are; nothing is changed.
        MissingTensorError, IntegrityFailure: if the capture is incomplete or damaged; nothing is changed.
        ReplayError: if the structure can't be rebuilt; nothing is changed.
    """
    if (reason := in_the_way(session.live.module)) is not None:
        raise UsageError(reason)
    capture = LoadedCapture(session.vault, state.captures[source.capture].manifest)
    tensors: Callable[[str], torch.Tensor] = capture.verified()
    history = session.log.at(state.id, {1, *source.lineage.edits_of})
    edits = edits_by_version(history)
    before = source.lineage.edits_of
    if source.edits_of:
        before = before[: -len(source.edits_of)]
    followers = session.live.followers
    target, *others = (
        blank_module(state, inherited_edits(history), edits, before) for _ in range(1 + len(followers))
    )
    reach("restore.loaded")
    realign(session.live.module, target, journal)
    left_out = put_back(session.live, capture.document, tensors, journal, fresh)
    if left_out:
        logger.warning(
            "model %r: generators that are not what they were: %s", state.name, "; ".join(left_out)
        )
    for follower, other in zip(followers, others, strict=True):
        with follower.staying_frozen(journal):
            realign(follower.module, other, journal)
        follower.restart(session.live.module, journal)
    for version in source.edits_of:
        apply_edits(session.live, edits[version], Recorded(session.vault), journal)
    for module in (session.live.module, *(follower.module for follower in followers)):
        forget_kept(module.modules())
        let_programs_look_again(module)
    _drop_gradients(session, journal)
    reach("restore.applied")
    return left_out


def _drop_gradients(session: Session, journal: Journal) -> None:
    """Gradients of a timeline that is given up must not be applied."""
    for parameter in session.live.module.parameters():
        if parameter.grad is not None:
            journal.set_gradient(parameter, None)


def roll_back(
    session: Session,
    to_version: int,
    cause: Cause,
    *,
    trigger: str,
    reason: str,
    leading: Sequence[Fact] = (),
    capture_first: bool = True,
    fresh: Collection[str] = (),
) -> RolledBack:
    """Restore a version and record that it happened.

    Args:
        session: the run.
        to_version: where to.
        cause: who and why.
        trigger: ``"asked"``, ``"watch"`` or ``"resume"``.
        reason: in words.
        leading: facts to commit in the same transaction, in front.
        capture_first: store the state that is left, so that the rollback can be rolled back.
        fresh: parts that begin anew instead of being restored.

    Returns:
        What was recorded.

    Raises:
        Refused: if the version has no capture.
        MissingTensorError, IntegrityFailure, ReplayError, VaultError, LedgerError: if it can't be done; the run is
            as before.
    """
    source = restorable(session.state, to_version)
    notice(session)
    capture = _capture_of_left_state(session) if capture_first else None
    state = session.state
    base_version = None if capture is None else state.version + len(leading) + 1
    journal = Journal()
    version = state.version
    document = LoadedCapture(session.vault, state.captures[source.capture].manifest).document
    fresh = frozenset(fresh) | (session.fresh & of_other_kinds(session.live, document))
    try:
        left_out = restore_live(session, state, source, journal, fresh)
        exact = not left_out and not fresh
        fact = evolve(
            _fact(session, state, source, leading, base_version, trigger, reason, exact=exact),
            left_out=left_out,
            fresh=tuple(sorted(fresh)),
        )
        before = () if capture is None else (evolve(capture, of_version=state.version + len(leading)),)
        facts = (*leading, *before, fact)
        envelopes = session.append((*facts, *capture_anew(session, fresh, len(facts))), cause)
    except BaseException:
        if session.state.version == version:
            journal.undo()
        raise
    session.publisher.publish(envelopes)
    release_old_captures(session)
    return fact


def capture_anew(session: Session, fresh: Collection[str], behind: int) -> tuple[StateCaptured, ...]:
    """Capture a run of which parts begin anew: no earlier capture tells what it is."""
    if not fresh:
        return ()
    captured = store_capture(session.live, session.vault, f"anew: {', '.join(sorted(fresh))}")
    return (evolve(captured, of_version=session.state.version + behind),)


def _capture_of_left_state(session: Session) -> StateCaptured | None:
    if not session.state.capture_policy.before_structural_change:
        return None
    strangers = holds_strangers(session.live)
    if strangers or not describe(session.live.module).fits(session.state.architecture):
        logger.warning(
            "model %r was changed outside of its run; the state left by this rollback is not captured",
            session.state.name,
        )
        return None
    captured = store_capture(session.live, session.vault, "before rollback")
    compare(session, captured)
    return captured


def _fact(
    session: Session,
    state: ModelState,
    source: Restorable,
    leading: Sequence[Fact],
    base_version: int | None,
    trigger: str,
    reason: str,
    *,
    exact: bool,
) -> RolledBack:
    whole = exact and not source.edits_of
    expected = state.captures[source.capture].manifest if whole else None
    measured = state_fingerprint(session.live)
    epochs = state.lineage.trained_epochs + sum(isinstance(fact, EpochEnded) for fact in leading)
    if expected is not None and measured != expected:
        raise IntegrityFailure(
            f"the run restored to version {source.version} has the fingerprint {measured}, {expected} was captured"
        )
    return RolledBack(
        to_version=source.version,
        capture_version=source.capture,
        from_version=state.version + len(leading),
        base_capture=base_version,
        fingerprint=measured,
        model_fingerprint=fingerprint(session.live.module),
        expected_fingerprint=expected,
        epochs_discarded=max(epochs - source.lineage.trained_epochs, 0),
        steps_discarded=max(
            state.lineage.trained_steps + session.step - state.step - source.lineage.trained_steps, 0
        ),
        trigger=trigger,
        reason=reason,
    )
