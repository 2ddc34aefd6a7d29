from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Engine, text

from esper_es.ledger.database import open_database


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An open, empty log, once in SQLite and once in PostgreSQL."""
    engine = open_database(database_url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def shared_engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """An open log that all tests of a module share, once in SQLite and once in PostgreSQL."""
    make = {"sqlite": _sqlite, "postgresql": _postgresql}[request.param]
    yield from make(request, tmp_path_factory.mktemp("log"))


def _sqlite(request: pytest.FixtureRequest, folder: Path) -> Iterator[Engine]:
    engine = open_database(f"sqlite:///{folder / 'runs.db'}")
    yield engine
    engine.dispose()


def _postgresql(request: pytest.FixtureRequest, folder: Path) -> Iterator[Engine]:
    server: Engine = request.getfixturevalue("postgresql_server")
    name = f"audit_{uuid4().hex}"
    with server.connect() as administrator:
        administrator.execute(text(f"CREATE DATABASE {name}"))
    url = server.url.set(drivername="postgresql", database=name)
    engine = open_database(url.render_as_string(hide_password=False))
    yield engine
    engine.dispose()
    with server.connect() as administrator:
        administrator.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
