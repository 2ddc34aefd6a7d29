"""Rows on their way into the audit tables."""

from __future__ import annotations

from typing import Any, Final

from attrs import define, field
from sqlalchemy import Connection, Insert, Table, insert

from esper_es.domain.envelope import Envelope
from esper_es.projections.audit.tables import TABLES

# Built once: SQLAlchemy then finds each one's SQL by identity.
_INSERTS: Final[dict[Table, Insert]] = {table: insert(table) for table in TABLES}


def model_key(envelope: Envelope) -> str:
    """The text by which the tables know a model."""
    return str(envelope.originator_id)


@define
class Writer:
    """Gathers rows, so that each table takes one statement for all of them.

    Args:
        connection: whose transaction they are written in.
    """

    _connection: Connection
    _waiting: dict[Table, list[dict[str, Any]]] = field(factory=dict, init=False)

    def add(self, table: Table, envelope: Envelope, **values: Any) -> None:
        """Add a row that belongs to a fact."""
        row = {"model_id": model_key(envelope), "version": envelope.version, **values}
        self._waiting.setdefault(table, []).append(row)

    def add_model(self, table: Table, envelope: Envelope, **values: Any) -> None:
        """Add a row that belongs to a model."""
        self._waiting.setdefault(table, []).append({"model_id": model_key(envelope), **values})

    def write(self) -> Connection:
        """Insert what was gathered, and return the connection, which now sees it."""
        for table in TABLES:
            if rows := self._waiting.pop(table, None):
                self._connection.execute(_INSERTS[table], rows)
        return self._connection
