"""Where a vault may be: beside its log, and never in its way. Nothing is made here."""

from __future__ import annotations

from pathlib import Path

from esper_es.domain.errors import UsageError, VaultError
from esper_es.sqlite_reading import is_writable


def beside(log: Path) -> Path:
    """Return the vault of a log in a file, unless another is named: ``runs.vault`` beside ``runs.db``."""
    return log.with_suffix(".vault")


def require_apart(place: Path, log: Path) -> None:
    """Check that log and vault are not in each other's way.

    Raises:
        UsageError: the vault is the log's file, or the log lies inside of the vault.
    """
    place, log = place.resolve(), log.resolve()
    if place == log:
        raise UsageError(
            f"{place} can't be log and vault at once; name the log otherwise, or give vault=... a directory of its own"
        )
    if place in log.parents:
        raise UsageError(
            f"the log {log} lies inside of its vault {place}, which keeps its own files there; move one"
        )


def require_usable(place: Path) -> None:
    """Check, before anything is made, that a vault can be opened or made at a place.

    Raises:
        VaultError: it is no directory, or nothing can be written there.
    """
    try:
        there = next(path for path in (place, *place.absolute().parents) if path.exists())
    except PermissionError as error:
        raise VaultError(f"a vault can't be opened at {place}: this user may not look there") from error
    if not there.is_dir():
        raise VaultError(
            f"a vault can't be opened at {place}: {there} is not a directory; name another place"
        )
    if not is_writable(there):
        raise VaultError(
            f"a vault can't be opened at {place}: {there} is read-only; make it writable, or choose another place"
        )


def is_vault(place: Path) -> bool:
    """Say whether a vault is there, or something that this user may not look into: opening it says so."""
    try:
        return (place / "packs").is_dir()
    except PermissionError:
        return True
