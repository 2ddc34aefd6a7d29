"""The database itself refuses to change what was recorded."""

from __future__ import annotations

from uuid import UUID

import pytest
import sqlalchemy.exc
from sqlalchemy import Engine, text

from esper_es.ledger.database import open_database
from esper_es.ledger.recorder import SQLAlchemyRecorder

from .events import history

EVERYWHERE = [
    "UPDATE facts SET body = 'x'",
    "UPDATE facts SET sequence = sequence + 100",
    "DELETE FROM facts",
    "DELETE FROM facts WHERE version = 2",
    "DELETE FROM heads",
    "UPDATE heads SET version = version - 1",
    "UPDATE heads SET model_id = 'another'",
]


@pytest.mark.parametrize("statement", EVERYWHERE)
def test_change_is_refused(engine: Engine, model: UUID, statement: str) -> None:
    SQLAlchemyRecorder(engine).insert_events(history(model, 2))
    with pytest.raises(sqlalchemy.exc.IntegrityError, match=r"append-only|only move forward"):
        execute(engine, statement)


@pytest.mark.parametrize("table", ["facts", "heads"])
@pytest.mark.postgresql
def test_truncation_is_refused(postgresql_url: str, table: str) -> None:
    engine = open_database(postgresql_url)
    with pytest.raises(sqlalchemy.exc.IntegrityError, match="TRUNCATE is refused"):
        execute(engine, f"TRUNCATE {table}")
    engine.dispose()


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT OR REPLACE INTO facts SELECT sequence, model_id, version, name, 9, at, body, hash, hash "
        "FROM facts",
        "INSERT OR REPLACE INTO heads SELECT model_id, 1, hash FROM heads",
    ],
)
def test_replacement_is_refused(memory_engine: Engine, model: UUID, statement: str) -> None:
    SQLAlchemyRecorder(memory_engine).insert_events(history(model, 2))
    with pytest.raises(sqlalchemy.exc.IntegrityError, match=r"append-only|only move forward"):
        execute(memory_engine, statement)


def execute(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(statement))
