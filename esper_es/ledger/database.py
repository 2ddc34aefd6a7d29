"""Opens a log: connects, upgrades its schema if need be, and says clearly what is wrong if it cannot."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

import sqlalchemy.exc
from sqlalchemy import Connection, Engine
from sqlalchemy.engine import URL

from esper_es.domain.errors import LedgerError
from esper_es.ledger.connections import connect_engine, use_wal, writing
from esper_es.ledger.faults import ledger_fault
from esper_es.ledger.memory import fill_memory
from esper_es.ledger.revisions import known_revisions, lock_revision, stored_revision, upgrade_schema
from esper_es.ledger.urls import database_url, describe, file_path, is_in_memory
from esper_es.sqlite_reading import has_changes_beside, is_writable

_REMEDIES: Final = {
    sqlite3.SQLITE_NOTADB: "give the path of a log, or of a file that does not exist yet",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: restore it from a copy",
    sqlite3.SQLITE_CANTOPEN: "this user must be able to read the file, and those beside it with its name",
    sqlite3.SQLITE_BUSY: "another process holds the file: try again when it is done",
    sqlite3.SQLITE_FULL: "free some space",
    sqlite3.SQLITE_IOERR: "the disk is full or failing: free some space, or check its health",
    sqlite3.SQLITE_READONLY: "make the file and its directory writable",
}


def open_database(url: str | URL, *, upgrade: bool = True, read_only: bool = False) -> Engine:
    """Open the log at a database URL and return its engine, which the caller disposes of.

    Args:
        url: `"sqlite:///runs.db"` (created if missing), `"sqlite://"` or `":memory:"` (private to the engine,
            gone when it is disposed of; usable from several threads), `"postgresql://user@host/database"`.
        upgrade: bring an older or empty database to this release's schema. Several processes may do so at
            once. Otherwise such a database is refused.
        read_only: neither create nor upgrade nor write anything.

    Raises:
        LedgerError: the URL is wrong, the database cannot be reached, read or written, it is no log, or its
            schema is newer than this release. No message holds a password.
    """
    target = database_url(url)
    upgrade = upgrade and not read_only
    _check_place(target, creating=upgrade, read_only=read_only)
    engine = connect_engine(target, read_only=read_only)
    try:
        _prepare(engine, upgrade=upgrade)
    except sqlalchemy.exc.DBAPIError as error:
        engine.dispose()
        raise _opening_fault(error, target) from error
    except BaseException:
        engine.dispose()
        raise
    return engine


def _check_place(url: URL, *, creating: bool, read_only: bool) -> None:
    if is_in_memory(url):
        if not creating:
            raise LedgerError("a log in memory starts empty: open it with upgrade=True and read_only=False")
        return
    path = file_path(url)
    if path is None:
        return
    try:
        _check_path(path, creating=creating, read_only=read_only)
    except PermissionError as error:
        raise LedgerError(f"{path} cannot be reached: this user may not look into {path.parent}") from error


def _check_path(path: Path, *, creating: bool, read_only: bool) -> None:
    if path.is_dir():
        raise LedgerError(f"{path} is a directory: give the path of a file in it, e.g. {path / 'runs.db'}")
    if not path.parent.is_dir():
        raise LedgerError(f"{path} cannot be opened: there is no directory {path.parent}; create it first")
    if not creating and not path.exists():
        raise LedgerError(
            f"there is no log at {path}: check the path (only opening it for writing creates it)"
        )
    if read_only:
        _check_readable(path)
    else:
        _check_writable(path)


def _check_writable(path: Path) -> None:
    # SQLite writes two more files beside its own, so the directory counts as well.
    for place in (path, path.parent):
        if place.exists() and not is_writable(place):
            raise LedgerError(
                f"{path} cannot be written: {place} is read-only; make it writable, or choose another place. "
                "To read it, Engine(..., read_only=True) and the reading commands of esper-es need no permission"
            )


def _check_readable(path: Path) -> None:
    unseen = has_changes_beside(path) and not path.with_name(f"{path.name}-shm").exists()
    if unseen and not is_writable(path.parent):
        raise LedgerError(
            f"{path} cannot be read where nothing may be written: its last writer did not get to fold {path.name}-wal "
            "in; copy both files to a directory of your own and read them there"
        )


def _prepare(engine: Engine, *, upgrade: bool) -> None:
    if is_in_memory(engine.url):
        fill_memory(engine)
        return
    with engine.connect() as connection:
        if _is_current(connection, must_be=not upgrade):
            return
    use_wal(engine)
    with writing(engine) as connection:
        lock_revision(connection)
        if not _is_current(connection):  # otherwise another process was first
            upgrade_schema(connection)


def _is_current(connection: Connection, *, must_be: bool = False) -> bool:
    place, stored, known = describe(connection.engine.url), stored_revision(connection), known_revisions()
    if stored == known[-1]:
        return True
    if stored is not None and stored not in known:
        raise LedgerError(
            f"{place} was written by a newer release: its schema is {stored}, this release knows up to "
            f"{known[-1]}; upgrade esper-es"
        )
    if must_be and stored is None:
        raise LedgerError(f"{place} holds no log: check the address (opening it with upgrade=True makes one)")
    if must_be:
        raise LedgerError(
            f"{place} was written by an older release: its schema is {stored}, this release needs "
            f"{known[-1]}; open it once for writing, with upgrade=True"
        )
    return False


def _opening_fault(error: sqlalchemy.exc.DBAPIError, url: URL) -> LedgerError:
    if url.get_backend_name() == "sqlite":
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF  # the low byte of an extended code
        remedy = _REMEDIES.get(code, "check that the path names a log of esper-es")
    else:
        remedy = "check host, port, database, user and password, and that this user may create tables"
    return ledger_fault("the log could not be opened", error, url, remedy=remedy)
