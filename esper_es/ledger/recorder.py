"""Appends facts to the log and reads them back, over SQLAlchemy Core."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias
from uuid import UUID

from sqlalchemy import Connection, Engine, Select, bindparam, func, insert, or_, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from esper_es.domain.errors import LedgerError, OutcomeUnknownError, UsageError
from esper_es.ledger.connections import BUSY_SECONDS, writing
from esper_es.ledger.faults import ledger_fault
from esper_es.ledger.heads import Head
from esper_es.ledger.kernel import ApplicationRecorder, Notification, StoredEvent
from esper_es.ledger.linking import Moment, NewRow, VersionConflictError, clock, link_rows, model_key
from esper_es.ledger.row_checks import intact, linked
from esper_es.ledger.rows import join_topic, select_rows, split_topic
from esper_es.ledger.subscription import PollingSubscription
from esper_es.ledger.tables import facts, heads

Inline: TypeAlias = Callable[[Connection], None]

# Built once: SQLAlchemy then finds each one's SQL by identity, which halves the cost of an append.
_LOCK: Final = text("LOCK TABLE facts IN EXCLUSIVE MODE")
_WAIT_NO_LONGER: Final = text(f"SET LOCAL lock_timeout = '{BUSY_SECONDS:g}s'")
_GET_HEAD: Final = select(heads.c.version, heads.c.hash).where(heads.c.model_id == bindparam("model"))
_ADD_FACTS: Final = insert(facts).returning(facts.c.sequence, sort_by_parameter_order=True)
_ADD_HEAD: Final = insert(heads).values(
    model_id=bindparam("model"), version=bindparam("newest"), hash=bindparam("newest_hash")
)
_MOVE_HEAD: Final = (
    update(heads)
    .where(heads.c.model_id == bindparam("model"))
    .values(version=bindparam("newest"), hash=bindparam("newest_hash"))
)


class SQLAlchemyRecorder(ApplicationRecorder):
    """Records facts in the tables `facts` and `heads` of an engine from `open_database`.

    Writers take turns: SQLite's BEGIN IMMEDIATE, or an EXCLUSIVE lock on `facts` in PostgreSQL, held to
    COMMIT. So sequence numbers become visible in their order, and a reader that goes on from the last
    number it saw misses nothing.

    Args:
        engine: from `open_database`; the caller disposes of it.
        moment: gives the column `at` of a fact, ISO 8601 in UTC with microseconds. Where the stored state
            says when it happened, pass a function that reads it there, so that the two cannot differ.
    """

    def __init__(self, engine: Engine, *, moment: Moment = clock) -> None:
        self._engine = engine
        self._moment = moment

    def insert_events(
        self, stored_events: Sequence[StoredEvent], *, inline: Inline | None = None, **options: Any
    ) -> list[int]:
        """Append facts, all or none, and return their sequence numbers.

        Args:
            stored_events: for each model, versions that continue its log (the first is 0 or 1).
            inline: called with the connection after the facts are inserted and before they are committed.
                What it raises undoes the append and reaches the caller as it is. Keep it short: other
                writers wait.

        Raises:
            VersionConflictError: a version is already recorded; nothing was kept.
            LedgerError: the database failed, or a version leaves a gap; nothing was kept.
            OutcomeUnknownError: the connection was lost in the very moment of COMMIT, and the log, which is
                then asked what became of it, cannot be reached either.
        """
        if options:
            raise UsageError(f"insert_events does not know {sorted(options)}: it takes inline")
        rows: list[NewRow] = []
        try:
            with writing(self._engine) as connection:
                _take_turn(connection)
                known = _heads_of(connection, stored_events)
                rows = link_rows(stored_events, known, self._moment)
                sequences = _add_facts(connection, rows)
                _move_heads(connection, known, rows)
                if inline is not None:
                    inline(connection)
        except OperationalError as error:
            if error.connection_invalidated and (kept := self._sequences_if_kept(rows)):
                return kept
            raise ledger_fault(
                "the facts could not be appended",
                error,
                self._engine.url,
                remedy="nothing of this append is in the log; try again when the database is well",
            ) from error
        return sequences

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> list[StoredEvent]:
        """Facts of one model by version: greater than `gt`, up to and including `lte`.

        Raises:
            IntegrityFailure: one is not what was recorded.
            LedgerError: the database failed.
        """
        version = facts.c.version
        query = select_rows().where(facts.c.model_id == model_key(originator_id))
        if gt is not None:
            query = query.where(version > gt)
        if lte is not None:
            query = query.where(version <= lte)
        query = query.order_by(version.desc() if desc else version).limit(limit)
        return [
            StoredEvent(originator_id, row.version, join_topic(row.name, row.schema), row.body)
            for row in linked(intact(self._read(query)))
        ]

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> list[Notification]:
        """Facts of all models by sequence number, from `start` to `stop`, of the given topics if any."""
        c = facts.c
        query = select_rows()
        if start is not None:
            query = query.where(c.sequence >= start if inclusive_of_start else c.sequence > start)
        if stop is not None:
            query = query.where(c.sequence <= stop)
        if topics:
            pairs = map(split_topic, topics)
            query = query.where(or_(*((c.name == name) & (c.schema == schema) for name, schema in pairs)))
        query = query.order_by(c.sequence).limit(limit)
        return [
            Notification(
                UUID(row.model_id), row.version, join_topic(row.name, row.schema), row.body, id=row.sequence
            )
            for row in intact(self._read(query))
        ]

    def max_notification_id(self) -> int | None:
        """The newest sequence number; None if the log is empty."""
        newest: int | None
        [(newest,)] = self._read(select(func.max(facts.c.sequence)))
        return newest

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> PollingSubscription:
        """An endless iterator over the facts after sequence number `gt`."""
        return PollingSubscription(self, gt, topics)

    def wait_for_appends(self) -> None:
        """Return when every append that was under way is committed or undone, even one of a lost connection.

        In SQLite an append ends with the call that made it, so there is nothing to wait for.

        Raises:
            LedgerError: the database cannot be reached, or one of them does not end.
        """
        if self._engine.dialect.name != "postgresql":
            return
        try:
            with writing(self._engine) as connection:
                connection.execute(_WAIT_NO_LONGER)
                connection.execute(_LOCK)
        except DBAPIError as error:
            raise ledger_fault(
                "the end of an append could not be waited for",
                error,
                self._engine.url,
                remedy="try again when the database is well",
            ) from error

    def _read(self, query: Select[Any]) -> Sequence[Any]:
        try:
            with self._engine.connect() as connection:
                return connection.execute(query).all()
        except OperationalError as error:
            raise ledger_fault(
                "the facts could not be read",
                error,
                self._engine.url,
                remedy="try again when the database is well",
            ) from error

    def _sequences_if_kept(self, rows: Sequence[NewRow]) -> list[int]:
        if not rows:
            return []
        query = select(facts.c.sequence).where(facts.c.hash.in_([row["hash"] for row in rows]))
        try:
            self.wait_for_appends()
            return [sequence for (sequence,) in self._read(query.order_by(facts.c.sequence))]
        except LedgerError as error:
            version, model = rows[-1]["version"], rows[-1]["model_id"]
            raise OutcomeUnknownError(
                f"the connection was lost during an append: whether version {version} of model {model} is "
                f"recorded is unknown ({error})"
            ) from error


def _take_turn(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(_LOCK)


def _heads_of(connection: Connection, events: Sequence[StoredEvent]) -> dict[str, Head]:
    models = {model_key(event.originator_id) for event in events}
    found = ((model, connection.execute(_GET_HEAD, {"model": model}).first()) for model in models)
    return {model: Head(*row) for model, row in found if row is not None}


def _add_facts(connection: Connection, rows: Sequence[NewRow]) -> list[int]:
    if not rows:
        return []
    try:
        return list(connection.scalars(_ADD_FACTS, rows))
    except IntegrityError as error:
        raise VersionConflictError(
            f"a version of model {rows[0]['model_id']} is already recorded although the table of heads "
            "does not say so: run verify_chain"
        ) from error


def _move_heads(connection: Connection, known: dict[str, Head], rows: Sequence[NewRow]) -> None:
    for model, row in {row["model_id"]: row for row in rows}.items():
        head = {"model": model, "newest": row["version"], "newest_hash": row["hash"]}
        connection.execute(_MOVE_HEAD if model in known else _ADD_HEAD, head)
