"""SQLite files that are only read, also where nothing may be written.

SQLite keeps two files beside one with a write-ahead log (``-wal``, ``-shm``), and makes them even to read it. Where it
may not, a file that nobody has open can be read as it lies (``immutable=1``, https://sqlite.org/wal.html#readonly).
"""

from __future__ import annotations

import logging
import os
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

logger = logging.getLogger(__name__)


def connect_to_read(path: Path, **options: Any) -> sqlite3.Connection:
    """Connect to a file without the right to change it, and without making files where that is not permitted.

    Args:
        path: of the file.
        options: of ``sqlite3.connect``.

    Raises:
        sqlite3.Error: it can't be opened.
    """
    address = f"file:{quote(str(path.absolute()))}?mode=ro"
    if not is_writable(path.parent) and not _is_in_use(path):
        logger.info("nothing may be written beside %s: it is read as it lies", path)
        address += "&immutable=1"
    connection: sqlite3.Connection = sqlite3.connect(address, uri=True, **options)
    return connection


def holds_unfolded_changes(path: Path) -> bool:
    """Say whether changes lie beside the file that can be read only where files may be made."""
    log = _beside(path, "-wal")
    return not is_writable(path.parent) and log.exists() and log.stat().st_size > 0


def is_writable(place: Path) -> bool:
    """Say whether this user may write to a file, or make files in a directory."""
    return os.access(place, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def _is_in_use(path: Path) -> bool:
    """Say whether a process has the file open, or did not get to fold its changes in."""
    return (
        _beside(path, "-shm").exists() or _beside(path, "-journal").exists() or holds_unfolded_changes(path)
    )


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
