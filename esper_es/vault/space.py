"""Room for new content, asked for before anything is written."""

from __future__ import annotations

import shutil
from pathlib import Path

from esper_es.domain.errors import UsageError, VaultError
from esper_es.vault.storage_errors import telling


def require_quota(needed: int, used: int, quota: int | None) -> None:
    """Check that `needed` more bytes stay within the vault's own quota (None: there is none).

    Raises:
        VaultError: they do not.
    """
    if needed < 0:
        raise UsageError(f"cannot make room for {needed} bytes: name a number of bytes that is not negative")
    if quota is not None and used + needed > quota:
        raise VaultError(
            f"{needed} bytes do not fit: the vault holds {used} of the {quota} bytes of its quota; "
            "raise the quota or collect garbage"
        )


def require_free_space(path: Path, needed: int) -> None:
    """Check that the file system has `needed` bytes left for this user.

    Raises:
        VaultError: it has not.
    """
    with telling("measure the free space of", path):
        free = shutil.disk_usage(path).free
    if needed > free:
        raise VaultError(
            f"{needed} bytes do not fit: the file system of {path} has {free} left; "
            "free some space, or collect garbage"
        )
