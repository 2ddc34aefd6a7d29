"""Errors of the database drivers, said again as `LedgerError` without secrets."""

from __future__ import annotations

from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from esper_es.domain.errors import LedgerError
from esper_es.ledger.urls import describe


def reason(error: DBAPIError, url: URL) -> str:
    """What the driver said, on one line, without the password should it have repeated it."""
    words = " ".join(str(error.orig).split())
    return words.replace(str(url.password), "***") if url.password else words


def ledger_fault(what_failed: str, error: DBAPIError, url: URL, *, remedy: str) -> LedgerError:
    """A `LedgerError` that names the database, what failed, the driver's reason and what would help."""
    return LedgerError(f"{describe(url)}: {what_failed}: {reason(error, url)}; {remedy}")
