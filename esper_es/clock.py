"""The clock of one run: steps, epochs, watch windows, captures by policy."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from attrs import evolve

from esper_es.capture import store_capture
from esper_es.domain.clock_commands import (
    continue_training,
    end_epoch,
    judge_watches,
    tick_seeds,
)
from esper_es.domain.envelope import Cause
from esper_es.domain.errors import LedgerError
from esper_es.domain.facts import Fact, StateCaptured
from esper_es.domain.model import Moment, recorded
from esper_es.noticing import compare, notice
from esper_es.operations import check_structure, commit_edits
from esper_es.restoring import roll_back
from esper_es.retention import release_old_captures
from esper_es.session import Session, now

logger = logging.getLogger(__name__)

ENGINE = Cause(actor="engine", reasoning="the clock")


def count_step(session: Session) -> None:
    """Count one optimizer step.

    The first step after a version that can be restored exactly is recorded, so that versions stay
    unambiguous. When the log can't be written, or another writer has taken it over, training goes on, every
    further step tries again, and the next operation raises.
    """
    session.step += 1
    session.boundary.declare(session.live)
    facts = continue_training(session.state, session.step)
    try:
        session.commit(facts, ENGINE)
    except LedgerError as error:
        logger.warning("model %r: %s", session.state.name, error)


def finish_epoch(session: Session, metrics: Mapping[str, float]) -> None:
    """Record an epoch's end; judge surgeries on trial, move seeds on, capture by policy.

    Raises:
        UsageError: for metrics that are not finite numbers; nothing is recorded.
        ConflictError, LedgerError, VaultError: if it can't be recorded; the run is as before.
    """
    ended = end_epoch(session.state, metrics, session.step)
    notice(session)
    moment = Moment(at=now(), epoch=session.state.epoch, step=session.step)
    after, _ = recorded(session.state, (ended,), ENGINE, moment)
    verdicts = judge_watches(after)
    leading: list[Fact] = [ended, *(verdict.closing for verdict in verdicts)]
    if verdicts and verdicts[-1].back_to is not None:
        closing = verdicts[-1].closing
        logger.warning(
            "model %r: surgery of version %d rolled back: %s",
            session.state.name,
            closing.subject_version,
            closing.reason,
        )
        cause = Cause(actor="engine", reasoning=closing.reason, caused_by=closing.subject_version)
        roll_back(
            session, verdicts[-1].back_to, cause, trigger="watch", reason=closing.reason, leading=leading
        )
        return
    after, _ = recorded(session.state, leading, ENGINE, moment)
    facts = [*leading, *tick_seeds(after)]
    every = session.state.capture_policy.every_n_epochs
    if every is None or ended.epoch % every:
        commit_edits(session, facts, ENGINE)
        return
    check_structure(session)
    commit_edits(session, facts, ENGINE, lambda: (_capture_behind(session, facts, f"every {every} epochs"),))
    release_old_captures(session)


def _capture_behind(session: Session, facts: Sequence[Fact], reason: str) -> StateCaptured:
    captured = store_capture(session.live, session.vault, reason)
    if not any(getattr(fact, "edits", ()) for fact in facts):
        compare(session, captured)
    return evolve(captured, of_version=session.state.version + len(facts))


def capture_now(session: Session, reason: str, cause: Cause) -> int:
    """Store the state of the run and record it; return the version of the capture.

    Raises:
        UsageError: if the model was changed behind the log's back.
        VaultError, LedgerError, ConflictError: if it can't be; the run is as before.
    """
    check_structure(session)
    notice(session)
    captured = store_capture(session.live, session.vault, reason)
    compare(session, captured)
    session.commit((evolve(captured, of_version=session.state.version),), cause)
    version = session.state.version
    release_old_captures(session)
    return version
