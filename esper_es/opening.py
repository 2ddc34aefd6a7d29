"""Opening a log and the vault that belongs to it: to write both, or to read them where nothing may be written."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from sqlalchemy import URL
from sqlalchemy import Engine as Database

from esper_es.domain.errors import UsageError
from esper_es.ledger.heads import heads
from esper_es.ledger.urls import describe, file_path, is_in_memory
from esper_es.vault import AnyVault, Vault
from esper_es.vault_place import beside, is_vault, require_apart, require_usable

logger = logging.getLogger(__name__)

VaultGiven = str | os.PathLike[str] | AnyVault | None
"""A directory, an open vault, or None for the place that follows from the log's."""


def vault_of(url: URL, given: VaultGiven) -> Path | AnyVault:
    """Return the directory of the tensors of a log, or the vault itself where it is none; no file is made.

    Args:
        url: of the log, normalised.
        given: by the user.

    Raises:
        UsageError: no place follows from the log's, or it collides with the log.
    """
    if given is None:
        return _vault_by_default(url)
    if not isinstance(given, (str, os.PathLike)):
        return given
    if not os.fspath(given):
        raise UsageError("vault=... needs a path, got an empty one; Vault.in_memory() needs none")
    log = file_path(url)
    if log is not None:
        require_apart(Path(given), log)
    return Path(given)


def _vault_by_default(url: URL) -> Path | AnyVault:
    if is_in_memory(url):
        return Vault.in_memory()
    log = file_path(url)
    if log is None:
        raise UsageError("a log on a database server needs vault=..., a directory for the tensors")
    require_apart(beside(log), log)
    return beside(log)


def vault_to_write(place: Path | AnyVault, database: Database) -> AnyVault:
    """Open the vault of an opened log, making it if there is none yet; if there should be one, say so.

    Raises:
        VaultError: it can't be.
    """
    if not isinstance(place, Path):
        return place
    if not is_vault(place):
        with database.connect() as connection:
            known = len(heads(connection))
        if known:
            logger.warning(
                "there is no vault at %s, and %s names tensors of %d models: a new, empty vault is made there, and "
                "nothing that was captured can be restored. If the vault is elsewhere, open the log with vault=...",
                place,
                describe(database.url),
                known,
            )
    return Vault.open(place)


def vault_to_read(place: Path | AnyVault) -> AnyVault:
    """Open the vault of a log without writing to it.

    Raises:
        VaultError: there is none, or it can't be read.
    """
    return Vault.open_read_only(place) if isinstance(place, Path) else place


def require_usable_places(place: Path | AnyVault) -> None:
    """Check, before the log is opened and perhaps made, that its vault can be opened or made.

    Raises:
        VaultError: it can't be.
    """
    if isinstance(place, Path):
        require_usable(place)
