"""The SQLite file under the index: one connection per process; damaged, it is replaced by an empty one."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from esper_es.domain.errors import VaultError
from esper_es.vault.storage_errors import telling

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

SCHEMA_VERSION = 1
SCHEMA = f"""
BEGIN IMMEDIATE;
DROP TABLE IF EXISTS blobs;
DROP TABLE IF EXISTS packs;
CREATE TABLE packs (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, size INTEGER NOT NULL);
CREATE TABLE blobs (
    digest TEXT NOT NULL,
    pack INTEGER NOT NULL,
    dtype TEXT,
    shape TEXT,
    offset INTEGER NOT NULL,
    length INTEGER NOT NULL,
    damaged INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (digest, pack)
) WITHOUT ROWID;
CREATE INDEX blobs_of_pack ON blobs (pack);
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""
_BUSY_SECONDS = 60.0
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

# Connections that must not be closed here, because closing would touch files that others are using: those
# inherited through a fork, and those to a file that another process has replaced.
_abandoned: list[sqlite3.Connection] = []


class IndexDatabase:
    """Runs operations on the file. A damaged one is replaced by an empty one, and the operation repeated.

    Raises:
        VaultError: from every operation, when the file cannot be used for a reason other than damage.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mutex = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._process = os.getpid()

    def read(self, operation: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run one query."""
        with self._mutex, self._telling():
            try:
                return operation(self._connected())
            except sqlite3.Error as error:
                if not _is_damage(error):
                    raise
                self._start_over(error)
                return operation(self._connected())

    def write(self, operation: Callable[[sqlite3.Connection], object]) -> None:
        """Run statements in one transaction."""

        def transaction(db: sqlite3.Connection) -> None:
            if db.in_transaction:
                db.rollback()
            try:
                db.execute("BEGIN IMMEDIATE")
                operation(db)
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.rollback()
                raise

        self.read(transaction)

    def close(self) -> None:
        """Close the connection; the next use opens it again."""
        with self._mutex:
            if self._connection is not None:
                if self._process == os.getpid() and _inode(self._path) == self._inode:
                    self._connection.close()
                else:
                    _abandoned.append(self._connection)
            self._connection = None

    def _connected(self) -> sqlite3.Connection:
        if self._process != os.getpid():
            self.close()
            self._process = os.getpid()
        if self._connection is None:
            with self._locked():
                self._connection = self._open()
                self._inode = _inode(self._path)
        return self._connection

    def _open(self) -> sqlite3.Connection:
        if self._path.is_symlink():
            raise VaultError(f"{self._path} is a symbolic link, which the vault does not follow: delete it")
        try:
            return _connect(self._path)
        except sqlite3.Error as error:
            if not _is_damage(error):
                raise
            self._remove(error)
            return _connect(self._path)

    def _start_over(self, error: sqlite3.Error) -> None:
        with self._locked():
            replaced_by_another_process = _inode(self._path) != self._inode
            self.close()
            if not replaced_by_another_process:
                self._remove(error)

    def _remove(self, error: sqlite3.Error) -> None:
        logger.warning("the index %s is damaged (%s): it is built again from the packs", self._path, error)
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = self._path.with_suffix(".lock")
        with telling("lock the index with", lock):
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise VaultError(
                f"could not use the index {self._path} ({error}); the packs are not affected: "
                "check free space and permissions, or delete the index, which is built again from the packs"
            ) from error


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != SCHEMA_VERSION:
            connection.executescript(SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection


def _is_damage(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0)
    moved = code == sqlite3.SQLITE_READONLY_DBMOVED
    other_contents = "no such" in str(error) or "decode to UTF-8" in str(error)
    return moved or code & 0xFF in _DAMAGE or other_contents


def _inode(path: Path) -> int:
    try:
        return os.stat(path, follow_symlinks=False).st_ino
    except FileNotFoundError:
        return 0
