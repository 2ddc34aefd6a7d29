"""Exit codes, and which error leads to which."""

from __future__ import annotations

import sqlite3
from enum import IntEnum
from typing import Final

from sqlalchemy.exc import DBAPIError

from esper_es.domain.errors import (
    ConflictError,
    EsperError,
    IntegrityFailure,
    MissingTensorError,
    Refused,
    ReplayError,
)

_NOT_AS_DECLARED: Final = frozenset({"42P01", "42703", "42804", "42883"})
"""Of PostgreSQL: no such table, no such column, a column of another type, no operator for its type."""

_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class ExitCode(IntEnum):
    """What a command tells the shell."""

    FINE = 0
    FINDING = 1
    """It worked and found something, or what was asked for is refused or cannot be had."""
    USAGE = 2
    """It could not be done as asked: wrong names, wrong places, a database that cannot be reached."""
    INTEGRITY = 3
    """Stored history or tensors are not what was recorded."""


def exit_code_of(error: EsperError | DBAPIError) -> ExitCode:
    """Return the exit code for an error that ends a command."""
    if isinstance(error, IntegrityFailure) or is_database_damage(error):
        return ExitCode.INTEGRITY
    if isinstance(error, (Refused, ConflictError, ReplayError, MissingTensorError)):
        return ExitCode.FINDING
    return ExitCode.USAGE


def is_database_damage(error: BaseException | None) -> bool:
    """Say whether SQLite reported a damaged file, here or in what caused the error."""
    while error is not None:
        code = getattr(getattr(error, "orig", None), "sqlite_errorcode", 0)
        if code & 0xFF in _DAMAGE:
            return True
        error = error.__cause__
    return False


def is_unreadable_content(error: DBAPIError) -> bool:
    """Say whether a database could be read, but a text in it not decoded, or a table not as it was declared."""
    if isinstance(error.orig, sqlite3.Error):
        code = getattr(error.orig, "sqlite_errorcode", None)
        return code is None or code & 0xFF == sqlite3.SQLITE_ERROR
    return getattr(error.orig, "sqlstate", None) in _NOT_AS_DECLARED


def message_of(error: EsperError | DBAPIError) -> str:
    """Return what an error says, on one line and without SQL."""
    said = error.orig if isinstance(error, DBAPIError) else error
    return " ".join(str(said).split())
