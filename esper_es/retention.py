"""Captures that the retention policy gives up, after a change that is recorded already."""

from __future__ import annotations

import logging

from esper_es.domain.clock_commands import release_captures
from esper_es.domain.envelope import Cause
from esper_es.domain.errors import LedgerError
from esper_es.session import Session

logger = logging.getLogger(__name__)

_CAUSE = Cause(actor="engine", reasoning="retention policy")


def release_old_captures(session: Session) -> None:
    """Record which captures are given up. If that fails, it is logged, and tried again after the next change."""
    try:
        session.commit(release_captures(session.state), _CAUSE)
    except LedgerError as error:
        logger.warning("model %r: no captures are released for now: %s", session.state.name, error)
