"""The log of every model: facts in, states out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, cast
from uuid import UUID

import orjson
import sqlalchemy as sa

from esper_es.domain.envelope import Envelope
from esper_es.domain.errors import ConflictError, LedgerError
from esper_es.domain.facts import ModelRegistered
from esper_es.domain.fold import fold
from esper_es.domain.state import ModelState
from esper_es.failpoints import reach
from esper_es.ledger.codec import decode, encode
from esper_es.ledger.kernel import AggregateNotFoundError, EventStore, Mapper, Repository, StoredEvent
from esper_es.ledger.linking import model_key
from esper_es.ledger.recorder import SQLAlchemyRecorder
from esper_es.ledger.row_checks import intact
from esper_es.ledger.rows import join_topic, select_rows
from esper_es.ledger.tables import facts

_CHUNK = 500
"""Versions asked for by one statement; databases limit their number."""

Projection = Callable[[sa.Connection, Sequence[Envelope]], None]
"""Brings tables up to date with facts, inside the transaction that appends them."""


class FactMapper(Mapper[UUID]):
    """Maps envelopes to stored events and back by the codec; no class path ever reaches the database."""

    def __init__(self) -> None:
        pass  # the codec needs neither transcoder, nor compressor, nor cipher

    def to_stored_event(self, domain_event: Any) -> StoredEvent:
        topic, state = encode(domain_event)
        return StoredEvent(domain_event.originator_id, domain_event.originator_version, topic, state)

    def to_domain_event(self, stored_event: StoredEvent) -> Any:
        model = cast(UUID, stored_event.originator_id)
        return decode(model, stored_event.originator_version, stored_event.topic, stored_event.state)


class Log:
    """Appends facts and inline projections in one transaction, and folds facts into states.

    Args:
        database: an engine from ``open_database``.
        projections: each is called in the transaction of every append.
    """

    def __init__(self, database: sa.Engine, projections: Iterable[Projection] = ()) -> None:
        self.database = database
        self._projections = tuple(projections)
        self._recorder = SQLAlchemyRecorder(database, moment=_moment_of)
        self._store: EventStore[UUID] = EventStore(FactMapper(), self._recorder)
        self._repository: Repository[UUID] = Repository(self._store)

    def append(self, envelopes: Sequence[Envelope]) -> None:
        """Commit facts and what the projections make of them: all or nothing.

        Raises:
            ConflictError: if another writer appended to the model first.
            OutcomeUnknownError: if the database was lost at the moment of the commit.
            LedgerError: if the database fails.
        """

        def project(connection: sa.Connection) -> None:
            reach("ledger.inserted")
            for projection in self._projections:
                projection(connection, envelopes)
            reach("ledger.projected")

        reach("ledger.appending")
        try:
            self._store.put(cast(Any, envelopes), inline=project)
        except ConflictError as error:
            first = envelopes[0].version
            raise ConflictError(
                f"another writer has recorded version {first} of this model already; nothing of this change was "
                "kept. One run writes to a model at a time: attach again to go on from the log's newest version"
            ) from error
        reach("ledger.committed")

    def holds(self, envelopes: Sequence[Envelope]) -> bool:
        """Say whether an append of facts of one model, which ended in an error, was committed all the same.

        Raises:
            LedgerError: if the database can't be asked.
        """
        self._recorder.wait_for_appends()
        first, last = envelopes[0], envelopes[-1]
        stored = self.history(first.originator_id, after=first.version - 1, to=last.version)
        return stored == tuple(envelopes)

    def load(self, model: UUID, version: int | None = None) -> ModelState | None:
        """Return the state of a model, at a version or the newest; None if the log does not know it.

        Raises:
            IntegrityFailure: if a fact is not what was recorded.
            LedgerError: if a fact is not known to this release.
        """
        try:
            return cast(
                ModelState,
                self._repository.get(model, version=version, projector_func=cast(Any, fold)),
            )
        except AggregateNotFoundError:
            return None

    def history(
        self, model: UUID, *, after: int | None = None, to: int | None = None
    ) -> tuple[Envelope, ...]:
        """Return a model's facts in order, behind version ``after`` and up to version ``to``."""
        return tuple(cast(Iterable[Envelope], self._store.get(model, gt=after, lte=to)))

    def at(self, model: UUID, versions: Collection[int]) -> tuple[Envelope, ...]:
        """Return a model's facts of the given versions, in order, without reading the others."""
        wanted = sorted(set(versions))
        found: list[Envelope] = []
        with self.database.connect() as connection:
            for start in range(0, len(wanted), _CHUNK):
                query = (
                    select_rows()
                    .where(
                        facts.c.model_id == model_key(model),
                        facts.c.version.in_(wanted[start : start + _CHUNK]),
                    )
                    .order_by(facts.c.version)
                )
                found += [
                    decode(model, row.version, join_topic(row.name, row.schema), row.body)
                    for row in intact(connection.execute(query))
                ]
        return tuple(found)

    def models(self) -> dict[str, UUID]:
        """Return the id of every model in the log, by name."""
        query = sa.select(facts.c.model_id).where(facts.c.version == 1).order_by(facts.c.sequence)
        with self.database.connect() as connection:
            ids = [UUID(str(key)) for key in connection.scalars(query)]
        return {self._name(model): model for model in ids}

    def _name(self, model: UUID) -> str:
        (first,) = self.history(model, to=1)
        if not isinstance(first.fact, ModelRegistered):
            raise LedgerError(f"the log of model {model} does not begin with its registration")
        return first.fact.name


def _moment_of(event: StoredEvent) -> str:
    return str(orjson.loads(event.state)["at"])
