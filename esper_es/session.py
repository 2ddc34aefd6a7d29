"""One attached model: live objects, the aggregate's state, and the single way facts are committed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from attrs import define, field, frozen

from esper_es.domain.envelope import Cause, Envelope
from esper_es.domain.errors import LedgerError
from esper_es.domain.facts import Fact
from esper_es.domain.model import Moment, recorded
from esper_es.domain.state import ModelState
from esper_es.example_inputs import ExampleInputs
from esper_es.ledger.log import Log
from esper_es.projections.live.live import Live
from esper_es.validators import SurgeryValidatorChain
from esper_es.vault import AnyVault

logger = logging.getLogger(__name__)

Subscriber = Callable[[Envelope], Any]


def now() -> str:
    """Return the UTC time in ISO 8601 with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


@frozen(eq=False)
class Publisher:
    """Hands facts to subscribers after their commit, in order."""

    subscribers: list[Subscriber] = field(factory=list)

    def publish(self, envelopes: Sequence[Envelope]) -> None:
        """Call every subscriber with every fact; one that raises is logged and harms nobody."""
        for envelope in envelopes:
            for subscriber in tuple(self.subscribers):
                try:
                    subscriber(envelope)
                except Exception:
                    logger.exception(
                        "subscriber %r failed on version %d; other subscribers and the run go on",
                        subscriber,
                        envelope.version,
                    )


@define(eq=False)
class Session:
    """What the operations on one attached model share.

    Attributes:
        log: where facts go.
        vault: where tensors go.
        live: the user's objects.
        examples: example inputs.
        state: the aggregate's state; it changes only after a commit.
        publisher: whom to tell.
        validators: the chain that every structural change passes.
        step: optimizer steps taken, as the log counts them.
        gradients: names of the parameters that a gradient reaches, by the fingerprint of the structure; of the
            last two structures only.
    """

    log: Log
    vault: AnyVault
    live: Live
    examples: ExampleInputs
    state: ModelState
    publisher: Publisher
    validators: SurgeryValidatorChain = field(factory=SurgeryValidatorChain)
    step: int = 0
    gradients: dict[str, frozenset[str]] = field(factory=dict)

    def commit(self, facts: Sequence[Fact], cause: Cause) -> None:
        """Append facts to the log, move the state on, and tell subscribers.

        Raises:
            ConflictError: if another writer was first.
            LedgerError: if the log can't be written.
        """
        self.publisher.publish(self.append(facts, cause))

    def append(self, facts: Sequence[Fact], cause: Cause) -> tuple[Envelope, ...]:
        """Append facts to the log and move the state on; the caller tells subscribers.

        Raises: as ``commit``.
        """
        if not facts:
            return ()
        moment = Moment(at=now(), epoch=self.state.epoch, step=self.step)
        after, envelopes = recorded(self.state, facts, cause, moment)
        try:
            self.log.append(envelopes)
        except (KeyboardInterrupt, SystemExit):
            if self._is_recorded(envelopes):
                self.state = after
            raise
        self.state = after
        return envelopes

    def _is_recorded(self, envelopes: tuple[Envelope, ...]) -> bool:
        """Say whether an interrupted append had got as far as its commit."""
        try:
            return self.log.history(self.state.id, after=self.state.version) == envelopes
        except LedgerError:
            return False
