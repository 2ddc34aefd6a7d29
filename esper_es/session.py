"""One attached model: live objects, the aggregate's state, and the single way facts are committed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from attrs import define, field, frozen

from esper_es.domain.envelope import Cause, Envelope
from esper_es.domain.errors import LedgerError, OutcomeUnknownError, Refused, UsageError
from esper_es.domain.facts import Fact
from esper_es.domain.model import Moment, recorded
from esper_es.domain.state import ModelState
from esper_es.example_inputs import ExampleInputs
from esper_es.ledger.log import Log
from esper_es.moment import Boundary, check_not_running
from esper_es.parallel import in_the_way
from esper_es.planning.structure_memory import StructureMemory
from esper_es.projections.live.live import Live
from esper_es.projections.live.movement import Mark
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
        unsettled: facts of an append of which it is not known whether it was committed.
        mark: what the run was at the last commit, as long as its version can be restored.
        fresh: parts that began anew when the run was attached; where they are of another kind than a capture's, they
            begin anew again instead of being restored.
        memory: what surgeries found out about the last structures.
        boundary: the end of the last training step.
        planning: whether a change is being planned, for which code of the user's may run.
    """

    log: Log
    vault: AnyVault
    live: Live
    examples: ExampleInputs
    state: ModelState
    publisher: Publisher
    validators: SurgeryValidatorChain = field(factory=SurgeryValidatorChain)
    step: int = 0
    unsettled: tuple[Envelope, ...] = ()
    mark: Mark | None = None
    fresh: frozenset[str] = frozenset()
    memory: StructureMemory = field(factory=StructureMemory)
    boundary: Boundary = field(factory=Boundary)
    planning: bool = False

    def check_moment(self) -> None:
        """Check that the model may be changed now.

        Raises:
            Refused: saying what is under way.
        """
        self.check_free()
        self.boundary.check(self.live)

    @contextmanager
    def planned(self) -> Iterator[None]:
        """Allow no other change meanwhile."""
        self.planning = True
        try:
            yield
        finally:
            self.planning = False

    def check_free(self) -> None:
        """Check that nothing else is at work on the model now, or holds on to its parameters.

        Raises:
            Refused: saying what.
            UsageError: if a change is being planned already.
        """
        if self.planning:
            raise UsageError(
                "a change of this run is being planned; functions given as loss or importance may only look at the "
                "model that they are given"
            )
        check_not_running(self.live.module)
        if (reason := in_the_way(self.live.module)) is not None:
            raise Refused(reason, "distributed")

    def commit(self, facts: Sequence[Fact], cause: Cause) -> None:
        """Append facts to the log, move the state on, and tell subscribers.

        Raises:
            ConflictError: if another writer was first.
            OutcomeUnknownError: if the log was lost at the moment of the commit.
            LedgerError: if the log can't be written, or an append that was in doubt turns out to be recorded.
        """
        self.publisher.publish(self.append(facts, cause))

    def append(self, facts: Sequence[Fact], cause: Cause) -> tuple[Envelope, ...]:
        """Append facts to the log and move the state on; the caller tells subscribers.

        Whatever is raised, the state says what the log says: it has moved on if the facts are recorded, and is as
        before if they are not.

        Raises: as ``commit``.
        """
        if not facts:
            return ()
        self._require_settled()
        moment = Moment(at=now(), epoch=self.state.epoch, step=self.step)
        after, envelopes = recorded(self.state, facts, cause, moment)
        self.unsettled = envelopes
        try:
            self.log.append(envelopes)
            self.stand_at(after)
        except OutcomeUnknownError as error:
            raise self._outcome_unknown(error) from error
        except BaseException as error:
            self._learn_outcome(after, error)
            raise
        return envelopes

    def stand_at(self, state: ModelState) -> None:
        """Move the state on, and remember what the run is, to notice when it moves."""
        self.state = state
        self.mark = None if state.standing is None else Mark.of(self.live)
        self.unsettled = ()

    def _learn_outcome(self, after: ModelState, error: BaseException) -> None:
        """Ask the log whether an append that ended in an error had got as far as its commit."""
        try:
            recorded_all_the_same = self.log.holds(self.unsettled)
        except Exception as unreachable:
            unknown = self._outcome_unknown(unreachable)
            if isinstance(error, Exception):
                raise unknown from error
            logger.exception("%s", unknown)  # the error asks the process to stop, and is not to be replaced
            return
        self.unsettled = ()
        if recorded_all_the_same:
            self.stand_at(after)

    def _require_settled(self) -> None:
        """Check that no earlier append is in doubt."""
        if not self.unsettled:
            return
        try:
            recorded_after_all = self.log.holds(self.unsettled)
        except LedgerError as error:
            raise self._outcome_unknown(error, still="still ") from error
        if recorded_after_all:
            raise LedgerError(
                f"model {self.state.name!r}: {self._doubtful()}, which was in doubt, was recorded after all, and this "
                f"run stands at version {self.state.version}, before it. Build the model anew and attach it under its "
                "name: it resumes from the log's newest version"
            )
        self.unsettled = ()

    def _outcome_unknown(self, error: Exception, still: str = "") -> OutcomeUnknownError:
        return OutcomeUnknownError(
            f"model {self.state.name!r}: whether {self._doubtful()} was recorded is {still}unknown: {error}. The run "
            f"was put back to version {self.state.version}. When the database can be reached again, the next "
            "operation finds out: either the run goes on, or it asks to attach the model anew"
        )

    def _doubtful(self) -> str:
        return f"version {self.unsettled[-1].version}"
