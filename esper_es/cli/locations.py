"""Where the log and its vault are: from options, the environment, or the current directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from attrs import frozen
from sqlalchemy.engine import URL

from esper_es.domain.errors import UsageError
from esper_es.ledger.urls import database_url, describe, file_path
from esper_es.vault_place import beside

DB_VARIABLE: Final = "ESPER_ES_DB"
VAULT_VARIABLE: Final = "ESPER_ES_VAULT"


@frozen
class Location:
    """Addresses of one log and of its vault.

    Attributes:
        url: of the log.
        vault: directory of the tensors; None for a log that is no file, when none was named.
    """

    url: URL
    vault: Path | None

    @property
    def place(self) -> str:
        """The log in words, without a password."""
        return describe(self.url)


def locate(db: str | None, vault: str | None, environment: Mapping[str, str], directory: Path) -> Location:
    """Return where the log and its vault are to be found; nothing is opened.

    Args:
        db: a URL or a plain path; else the variable ``ESPER_ES_DB``, else the only ``*.db`` in ``directory``.
        vault: a directory; else the variable ``ESPER_ES_VAULT``, else ``runs.vault`` beside ``runs.db``.
        environment: environment variables.
        directory: the current directory.

    Raises:
        UsageError: if no log is named and there is not exactly one in the directory.
        LedgerError: for a URL that names no kind of log.
    """
    named = db or environment.get(DB_VARIABLE) or str(_only_log_in(directory))
    url = database_url(named if _is_url(named) else URL.create("sqlite", database=named))
    named_vault = vault or environment.get(VAULT_VARIABLE)
    if named_vault:
        return Location(url, Path(named_vault))
    path = file_path(url)
    return Location(url, None if path is None else beside(path))


def _is_url(text: str) -> bool:
    return "://" in text or text == ":memory:"


def _only_log_in(directory: Path) -> Path:
    found = sorted(path for path in directory.glob("*.db") if path.is_file())
    if len(found) == 1:
        return found[0]
    here = f"several ({', '.join(path.name for path in found)})" if found else "none in this directory"
    raise UsageError(f"which log? There is {here}: name one with --db PATH_OR_URL or {DB_VARIABLE}")
