from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine

from esper_es.ledger.database import open_database
from esper_es.ledger.recorder import SQLAlchemyRecorder


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An open, empty log, once in SQLite and once in PostgreSQL."""
    engine = open_database(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def memory_engine() -> Iterator[Engine]:
    engine = open_database(":memory:")
    yield engine
    engine.dispose()


@pytest.fixture
def recorder(engine: Engine) -> SQLAlchemyRecorder:
    return SQLAlchemyRecorder(engine)


@pytest.fixture
def model() -> UUID:
    return uuid4()
