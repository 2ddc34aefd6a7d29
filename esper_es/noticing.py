"""Noticing that a run moved without the log: training flags, generators, or bytes that nobody told of.

Every operation looks before it records anything. A step of training costs nothing here.
"""

from __future__ import annotations

import logging

from esper_es.capture import LoadedCapture
from esper_es.domain.clock_commands import found_moved
from esper_es.domain.envelope import Cause
from esper_es.domain.facts import StateCaptured
from esper_es.session import Session

logger = logging.getLogger(__name__)

CAUSE = Cause(actor="engine", reasoning="the run is not what it was at the version before")

PARTS = {"rng": "generators", "training": "modes", "architecture": "module"}
"""What a manifest calls differently than ``TrainingContinued.moved`` does."""


def notice(session: Session) -> None:
    """Record that the run moved since its last version that can be restored, if it did.

    What can't be seen this way is told in ``projections.live.movement``.

    Raises:
        ConflictError, LedgerError: if it can't be recorded.
    """
    if session.mark is not None and (moved := session.mark.moved(session.live)):
        _record(session, moved)


def compare(session: Session, captured: StateCaptured) -> None:
    """Record that the run moved unseen, if a capture of it differs from the one it is said to stand on.

    Raises:
        ConflictError, LedgerError: if it can't be recorded.
    """
    standing = session.state.restorable.get(session.state.version)
    if standing is None or standing.edits_of:
        return
    known = session.state.captures[standing.capture].manifest
    if known != captured.manifest:
        _record(session, _differing(session, known, captured.manifest))


def _differing(session: Session, known: str, found: str) -> tuple[str, ...]:
    one, other = LoadedCapture(session.vault, known), LoadedCapture(session.vault, found)
    names = {name for name, digest in {*one.digests.items()} ^ {*other.digests.items()}}
    parts = {name.partition("/")[0] for name in names}
    parts |= {key for key in one.document if key != "tensors" and one.document[key] != other.document[key]}
    found_parts = {PARTS.get(part, part) for part in parts}
    order = ("module", "optimizer", "scheduler", "scaler", "modes", "generators")
    return tuple(part for part in order if part in found_parts)


def _record(session: Session, moved: tuple[str, ...]) -> None:
    facts = found_moved(session.state, session.step, moved)
    if facts:
        logger.info("model %r moved without an optimizer step: %s", session.state.name, ", ".join(moved))
    session.commit(facts, CAUSE)
