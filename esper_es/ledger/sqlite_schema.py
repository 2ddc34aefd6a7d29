"""The schema of an SQLite log against one that the migrations make afresh: every declaration, word by word."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen
from sqlalchemy import Connection

from esper_es.ledger.connections import connect_engine
from esper_es.ledger.deviations import OURS, Deviation
from esper_es.ledger.memory import fill_memory
from esper_es.ledger.urls import database_url

_QUERY = "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL"


@frozen
class _Declared:
    """A table, index or trigger, with its declaration on one line."""

    kind: str
    name: str
    table: str
    sql: str


def deviations(connection: Connection) -> list[Deviation]:
    """Return where a log's schema is not the one that the migrations make."""
    stored, made = _declared(connection), _as_migrated()
    missing = [
        Deviation(was.table, f"the {was.kind} {name} is missing")
        for name, was in made.items()
        if name not in stored
    ]
    added = [_addition(found) for name, found in stored.items() if name not in made]
    altered = [
        Deviation(
            was.table,
            f"the {was.kind} {name} is not as it was made: {_difference(was.sql, stored[name].sql)}",
        )
        for name, was in made.items()
        if name in stored and stored[name] != was
    ]
    return [*missing, *added, *altered]


def _addition(found: _Declared) -> Deviation:
    message = f"the {found.kind} {found.name} was added: {found.sql}"
    harmless = found.kind == "index" and not found.sql.upper().startswith("CREATE UNIQUE")
    return Deviation(found.table, message, harmless)


def _as_migrated() -> dict[str, _Declared]:
    engine = connect_engine(database_url(":memory:"))
    try:
        fill_memory(engine)
        with engine.connect() as connection:
            return _declared(connection)
    finally:
        engine.dispose()


def _declared(connection: Connection) -> dict[str, _Declared]:
    rows = connection.exec_driver_sql(_QUERY).all()
    return {
        str(name): _Declared(kind, name, table, " ".join(sql.split()))
        for kind, name, table, sql in rows
        if table in OURS or name in OURS
    }


def _difference(made: str, stored: str) -> str:
    """Return in words what differs between two declarations."""
    before, after = list(_clauses(made)), list(_clauses(stored))
    lost = [clause for clause in before if clause not in after]
    new = [clause for clause in after if clause not in before]
    if not lost and not new:
        return "its parts are in another order"
    return f"it says {', '.join(new) or 'nothing'} instead of {', '.join(lost) or 'nothing'}"


def _clauses(sql: str) -> Iterator[str]:
    """Split a declaration at the commas and the brackets of its outermost level: columns, constraints, the rest."""
    depth, start = 0, 0
    for position, character in enumerate(sql):
        depth += (character == "(") - (character == ")")
        opened, closed = character == "(" and depth == 1, character == ")" and depth == 0
        if opened or closed or (character == "," and depth == 1):
            yield sql[start:position].strip()
            start = position + 1
    yield sql[start:].strip()
