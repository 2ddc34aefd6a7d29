"""Database URLs: which ones are understood, and how they are shown without their secrets."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from uuid import uuid4

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from esper_es.domain.errors import LedgerError

_EXPECTED: Final = (
    'use "sqlite:///runs.db" for a file, "sqlite://" or ":memory:" for a log in memory, '
    'or "postgresql://user@host/database"'
)
_POSTGRESQL_NAMES: Final = frozenset({"postgresql", "postgres", "postgresql+psycopg"})
_SQLITE_NAMES: Final = frozenset({"sqlite", "sqlite+pysqlite"})


def database_url(url: str | URL) -> URL:
    """The URL to connect with: driver named, file path absolute, a name of its own for a log in memory.

    Raises:
        LedgerError: it is no URL, or names a database that is not supported.
    """
    if url == ":memory:":
        return _in_memory()
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # No cause is attached and no text with an "@" is shown: it might hold a password.
        shown = repr(url) if isinstance(url, str) and "@" not in url else "the given text"
        raise LedgerError(f"{shown} is not a database URL: {_EXPECTED}") from None
    if parsed.drivername in _SQLITE_NAMES:
        return _sqlite(parsed)
    if parsed.drivername in _POSTGRESQL_NAMES:
        return parsed.set(drivername="postgresql+psycopg")
    raise LedgerError(f"a log cannot be kept in {parsed.drivername!r}: {_EXPECTED}")


def is_in_memory(url: URL) -> bool:
    """Whether this normalised URL names a log that lives in the memory of this process."""
    return url.query.get("vfs") == "memdb"


def file_path(url: URL) -> Path | None:
    """Path of the SQLite file that this normalised URL names; None if it names something else."""
    if url.get_backend_name() != "sqlite" or is_in_memory(url) or url.database is None:
        return None
    return Path(url.database)


def describe(url: URL) -> str:
    """The database in words for messages: no password, and no query, which might hold one."""
    if url.get_backend_name() == "sqlite":
        return "the log in memory" if is_in_memory(url) else str(url.database)
    bare = URL.create("postgresql", url.username, None, url.host, url.port, url.database)
    return bare.render_as_string(hide_password=True)


def _in_memory() -> URL:
    # Connections that name one memdb file share it, with the locks of a file. A StaticPool would share one
    # connection, and with it one transaction, between threads.
    return URL.create(
        "sqlite", database=f"file:/esper-es-{uuid4().hex}", query={"vfs": "memdb", "uri": "true"}
    )


def _sqlite(url: URL) -> URL:
    if is_in_memory(url):
        return url
    path = url.database or ":memory:"
    if url.host or "uri" in url.query or path.startswith("file:"):
        raise LedgerError(
            f"{url.render_as_string()!r} does not name a plain SQLite file: {_EXPECTED} "
            '(an absolute path has four slashes: "sqlite:////data/runs.db")'
        )
    if path == ":memory:":
        return _in_memory()
    return url.set(drivername="sqlite", database=str(Path(path).absolute()))
