"""Acting as an ordinary user, and places where such a one may read and not write."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534


@contextmanager
def without_privileges() -> Iterator[None]:
    """As an ordinary user: to root, nothing is read-only. What is imported meanwhile must be readable to all."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def sealed(place: Path) -> Iterator[None]:
    """Let nobody write to a directory and what is in it, and see that nothing was."""
    before = _contents(place)
    _allow(place, 0o555, 0o444)
    try:
        with without_privileges():
            yield
        assert _contents(place) == before
    finally:
        _allow(place, 0o755, 0o644)


def _allow(place: Path, directories: int, files: int) -> None:
    for path in (place, *place.rglob("*")):
        path.chmod(directories if path.is_dir() else files)


def _contents(place: Path) -> dict[Path, tuple[int, int]]:
    found = ((path, path.stat()) for path in place.rglob("*"))
    return {path: (status.st_size, status.st_mtime_ns) for path, status in found}
