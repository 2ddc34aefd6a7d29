"""SQLite files that are only read, also where nothing can be written.

SQLite keeps two files beside one with a write-ahead log (``-wal``, ``-shm``), and makes them even to read it. Where it
can't, a file whose write-ahead log is empty can be read as it lies (``immutable=1``,
https://sqlite.org/wal.html#readonly).
"""

from __future__ import annotations

import logging
import os
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

logger = logging.getLogger(__name__)

_NOTHING_CAN_BE_WRITTEN = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
}


def connect_to_read(path: Path, **options: Any) -> sqlite3.Connection:
    """Connect to a file without the right to change it, and without making files where that is not possible.

    Args:
        path: of the file.
        options: of ``sqlite3.connect``.

    Raises:
        sqlite3.Error: it can't be read.
    """
    address = f"file:{quote(str(path.absolute()))}?mode=ro"
    try:
        return _connected(address, options)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in _NOTHING_CAN_BE_WRITTEN or has_changes_beside(path):
            raise
        logger.info("nothing can be written beside %s (%s): it is read as it lies", path, error)
    return _connected(f"{address}&immutable=1", options)


def has_changes_beside(path: Path) -> bool:
    """Say whether changes lie in a file of their own, without which the file is not complete."""
    return any(_size(path.with_name(path.name + suffix)) > 0 for suffix in ("-wal", "-journal"))


def is_writable(place: Path) -> bool:
    """Say whether this user may write to a file, or make files in a directory."""
    return os.access(place, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def _connected(address: str, options: dict[str, Any]) -> sqlite3.Connection:
    connection: sqlite3.Connection = sqlite3.connect(address, uri=True, **options)
    try:
        connection.execute("SELECT 1 FROM sqlite_schema").fetchone()  # only now the file is opened
    except BaseException:
        connection.close()
        raise
    return connection


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
