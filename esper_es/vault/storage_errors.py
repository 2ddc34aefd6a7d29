"""Errors of the operating system, told as errors of the vault."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from esper_es.domain.errors import VaultError

_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space, or collect garbage",
    errno.EDQUOT: "the disk quota is used up: free some space, or collect garbage",
    errno.EFBIG: "the file would be larger than this process or file system allows: raise the limit",
    errno.EIO: "the disk reported an error: check its health before trusting it further",
    errno.EROFS: "the file system is read-only: mount it writable, or put the vault elsewhere",
    errno.EACCES: "permission was denied: the vault needs to read and write there",
    errno.EPERM: "the operation is not permitted: the vault needs to read and write there",
    errno.ENOTDIR: "a part of the path is not a directory: name a directory",
    errno.EEXIST: "there is something else than a directory: name a directory",
    errno.ELOOP: "it is a symbolic link, which the vault does not follow: put the real file there",
}


@contextmanager
def telling(action: str, path: Path) -> Iterator[None]:
    """Turn every OSError inside into a VaultError that says what was tried, where, and what would help, where known."""
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0)
        what = f"could not {action} {path} ({error.strerror or error})"
        raise VaultError(what if advice is None else f"{what}: {advice}") from error
