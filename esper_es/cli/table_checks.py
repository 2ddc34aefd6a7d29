"""Check of the audit tables: that they say what the facts say."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Table, select, type_coerce
from sqlalchemy.types import NullType

from esper_es.cli.findings import Check, Finding
from esper_es.cli.layout import count
from esper_es.cli.log_checks import Histories, envelopes
from esper_es.ledger.database import open_database
from esper_es.projections.audit import project
from esper_es.projections.audit.tables import TABLES

_BATCH: Final = 500

Row = tuple[Any, ...]


def check_tables(connection: Connection, histories: Histories) -> Check:
    """Fill the audit tables anew, in memory, and compare every row.

    Raises:
        LedgerError: if facts do not fit one another.
    """
    fresh = open_database(":memory:")
    try:
        with fresh.begin() as rebuilt:
            facts = envelopes(connection, histories.states)
            while batch := tuple(islice(facts, _BATCH)):
                project(rebuilt, batch)
            findings = [
                Finding(kind="table_differs", where=table.name, message=message)
                for table in TABLES
                for message in _differences(table, *_rows_of_both(table, connection, rebuilt))
            ]
    finally:
        fresh.dispose()
    return Check("tables", f"{count(len(TABLES), 'audit table')} compared with a rebuild", findings)


def _rows_of_both(
    table: Table, stored: Connection, rebuilt: Connection
) -> tuple[dict[Row, Row], dict[Row, Row]]:
    """Return the rows of a table by their keys, as stored and as rebuilt in SQLite."""
    columns: list[ColumnElement[Any]] = list(table.columns)
    if stored.dialect.name == "sqlite":  # which keeps anything in any column: what the types hide counts
        columns = [type_coerce(column, NullType()).label(column.name) for column in columns]
    return _rows(stored, table, columns), _rows(rebuilt, table, columns)


def _rows(connection: Connection, table: Table, columns: list[ColumnElement[Any]]) -> dict[Row, Row]:
    key = [column.name for column in table.primary_key]
    rows = connection.execute(select(*columns)).mappings()
    return {tuple(row[name] for name in key): tuple(row.values()) for row in rows}


def _differences(table: Table, stored: dict[Row, Row], rebuilt: dict[Row, Row]) -> Iterator[str]:
    kinds = (
        ("missing", [key for key in rebuilt if key not in stored]),
        ("not in the log", [key for key in stored if key not in rebuilt]),
        ("altered", [key for key in stored if key in rebuilt and stored[key] != rebuilt[key]]),
    )
    for what, keys in kinds:
        if keys:
            first = ", ".join(str(part) for part in keys[0])
            yield f"{count(len(keys), 'row')} of {table.name} {what}, the first at ({first})"
