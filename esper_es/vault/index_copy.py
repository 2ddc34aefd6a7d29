"""A private copy of the index in memory, for readers: they learn what it says and never touch its file."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from esper_es.sqlite_reading import connect_to_read
from esper_es.vault.index_database import SCHEMA, SCHEMA_VERSION

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


class IndexCopy:
    """Runs operations on a copy that is gone when it is closed. A file that can't be read counts as empty."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mutex = threading.RLock()
        self._connection: sqlite3.Connection | None = None

    def read(self, operation: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run one query."""
        with self._mutex:
            if self._connection is None:
                self._connection = _copied(self._path)
            return operation(self._connection)

    def write(self, operation: Callable[[sqlite3.Connection], object]) -> None:
        """Run statements on the copy."""
        self.read(operation)

    def close(self) -> None:
        """Forget the copy; the next use makes another."""
        with self._mutex:
            if self._connection is not None:
                self._connection.close()
            self._connection = None


def _copied(path: Path) -> sqlite3.Connection:
    copy = _in_memory()
    if not path.is_file() or path.is_symlink():
        return _empty(copy)
    try:
        with closing(connect_to_read(path)) as source:
            source.backup(copy)
        (version,) = copy.execute("PRAGMA user_version").fetchone()
        copy.execute("SELECT count(*) FROM packs")
    except sqlite3.Error as error:
        logger.info("the index %s can't be read (%s): the packs are read instead", path, error)
        version = None
    if version == SCHEMA_VERSION:
        return copy
    copy.close()
    return _empty(_in_memory())


def _in_memory() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)


def _empty(connection: sqlite3.Connection) -> sqlite3.Connection:
    connection.executescript(SCHEMA)
    return connection
