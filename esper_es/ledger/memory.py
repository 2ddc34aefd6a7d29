"""Logs in memory: the schema is built once in a process and then copied, 1 ms instead of 35."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import cache

from sqlalchemy import Connection, Engine, event

from esper_es.ledger.connections import connect_engine, writing
from esper_es.ledger.revisions import upgrade_schema
from esper_es.ledger.urls import database_url


def fill_memory(engine: Engine) -> None:
    """Make an empty log of the newest schema in the empty memory of this engine.

    It lasts until the engine is disposed of, however many of its connections are lost until then.
    """
    _keep_memory(engine)
    with engine.connect() as connection, closing(sqlite3.connect(":memory:")) as copy:
        copy.deserialize(_empty_log())
        copy.backup(_driver(connection))


def _keep_memory(engine: Engine) -> None:
    # The memory is given back with its last connection, and SQLAlchemy drops one in whose statement Ctrl-C
    # arrives. This one is taken out of the pool, and nothing is ever asked of it.
    keeper = engine.raw_connection()
    keeper.detach()
    event.listen(engine, "engine_disposed", lambda _: keeper.close())


@cache
def _empty_log() -> bytes:
    engine = connect_engine(database_url(":memory:"))
    try:
        with writing(engine) as connection:
            upgrade_schema(connection)
        with engine.connect() as connection:
            return _driver(connection).serialize()
    finally:
        engine.dispose()


def _driver(connection: Connection) -> sqlite3.Connection:
    driver = connection.connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        raise TypeError(f"a log in memory is kept by sqlite3, not by {type(driver).__name__}")
    return driver
