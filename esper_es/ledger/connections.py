"""Engines: how connections to SQLite and PostgreSQL are made, and how a writing transaction begins."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool, QueuePool

from esper_es.domain.errors import LedgerError
from esper_es.ledger.urls import describe, file_path, is_in_memory
from esper_es.sqlite_reading import connect_to_read

BUSY_SECONDS: Final = 30.0
CONNECT_SECONDS: Final = 10
_BEGIN: Final = "esper_es_begin"
_READ_ONLY: Final = "esper_es_read_only"
_logger = logging.getLogger(__name__)


def connect_engine(url: URL, *, read_only: bool = False) -> Engine:
    """An engine for a URL from `urls.database_url`; nothing is connected yet.

    Raises:
        LedgerError: the driver for PostgreSQL is not installed.
    """
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, read_only=read_only)
    return _postgresql_engine(url, read_only=read_only)


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that will write: committed at the end of the block, rolled back by an exception.

    On SQLite it takes the write lock at its start (BEGIN IMMEDIATE). A transaction that first reads and
    takes the lock later fails at once, without waiting, if somebody wrote in between.

    Raises:
        LedgerError: the engine was opened to read only.
    """
    if engine.get_execution_options().get(_READ_ONLY):
        raise LedgerError(
            f"{describe(engine.url)} was opened read-only: open it without read_only=True to write"
        )
    with engine.connect().execution_options(**{_BEGIN: "IMMEDIATE"}) as connection, connection.begin():
        yield connection


def use_wal(engine: Engine) -> None:
    """Switch an SQLite file to a write-ahead log, for good: readers and the writer do not wait for another.

    SQLite may refuse at once, without waiting, while another process reads or does the same (29 of 2,400
    openings, eight at a time): hence the attempts.
    """
    if file_path(engine.url) is None:
        return
    deadline = time.monotonic() + BUSY_SECONDS
    while (mode := _switch_to_wal(engine, deadline)) is None:
        time.sleep(0.02)
    if mode != "wal":
        _logger.warning("%s keeps journal mode %r: readers wait for writers", engine.url.database, mode)


def _switch_to_wal(engine: Engine, deadline: float) -> str | None:
    try:
        with engine.connect().execution_options(**{_BEGIN: None}) as connection:
            return str(connection.exec_driver_sql("PRAGMA journal_mode = WAL").scalar_one())
    except OperationalError as error:
        busy = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
        if not busy or time.monotonic() > deadline:
            raise
        return None


def _sqlite_engine(url: URL, *, read_only: bool) -> Engine:
    if is_in_memory(url) and sqlite3.sqlite_version_info < (3, 36):
        raise LedgerError(
            f"a log in memory needs SQLite 3.36 or newer, and this Python has {sqlite3.sqlite_version}: "
            'use a file ("sqlite:///runs.db")'
        )
    path = file_path(url)
    if read_only and path is not None:
        engine = _reading_engine(url, path)
    else:
        arguments = {"check_same_thread": False, "timeout": _patience(url)}
        engine = create_engine(url, poolclass=QueuePool, connect_args=arguments)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    event.listen(engine, "invalidate", _give_up_sqlite)
    return engine


def _reading_engine(url: URL, path: Path) -> Engine:
    # No pool: whether somebody else has the file open, and so how it must be opened, is looked at each time.
    return create_engine(
        url,
        poolclass=NullPool,
        creator=lambda: connect_to_read(path, check_same_thread=False, timeout=_patience(url)),
        execution_options={_READ_ONLY: True},
    )


def _patience(url: URL) -> float:
    """Seconds to wait for another process."""
    return float(str(url.query.get("timeout", BUSY_SECONDS)))


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # The driver's own idea of when to begin a transaction leaves SELECT and DDL outside of it. It is
    # switched off here; _begin_sqlite begins (SQLAlchemy: "Enabling Non-Legacy SQLite Transactional Modes").
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")


def _begin_sqlite(connection: Connection) -> None:
    mode = connection.get_execution_options().get(_BEGIN, "DEFERRED")
    if mode is not None:
        connection.exec_driver_sql(f"BEGIN {mode}")


def _give_up_sqlite(connection: sqlite3.Connection, _record: object, _error: BaseException | None) -> None:
    # After an interrupt, cursors in the frames of its traceback keep a closed connection, and so its transaction and
    # the lock of the file, alive.
    with suppress(sqlite3.Error):
        connection.rollback()


def _postgresql_engine(url: URL, *, read_only: bool) -> Engine:
    defaults = {"connect_timeout": CONNECT_SECONDS, "application_name": "esper-es"}
    try:
        return create_engine(
            url,
            pool_pre_ping=True,
            connect_args={name: value for name, value in defaults.items() if name not in url.query},
            execution_options={"postgresql_readonly": True, _READ_ONLY: True} if read_only else {},
        )
    except ImportError as error:
        raise LedgerError(
            f"PostgreSQL needs the driver psycopg, which could not be imported ({error}): "
            "pip install 'esper-es[postgresql]'"
        ) from error
