"""The files of a vault: their names, and every touch of the directory that holds them. No link is followed.

<vault>/packs/<32 hex>.pack        content
<vault>/packs/<32 hex>.pack.tmp    a pack being written, or left by a killed writer
<vault>/packs/<32 hex>.pack.dead   tombstone: the pack of that name is to be deleted
<vault>/index.db                   cache of what the packs contain
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

from esper_es.domain.errors import UsageError, VaultError
from esper_es.vault.storage_errors import telling

logger = logging.getLogger(__name__)

_PACK = re.compile(r"[0-9a-f]{32}\.pack")
_TEMPORARY = re.compile(r"[0-9a-f]{32}\.pack\.tmp")
_TOMBSTONE = re.compile(r"[0-9a-f]{32}\.pack\.dead")
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class PackGoneError(VaultError):
    """A pack is not there any more, so what it contained has to be looked for elsewhere."""


@frozen
class FileState:
    """Size in bytes and time of last change (seconds since the epoch) of a file."""

    size: int
    changed_at: float


@frozen
class Listing:
    """What lies in the directory of packs, by pack name. `foreign` are names that no vault writes."""

    packs: dict[str, FileState]
    tombstones: dict[str, FileState]
    temporaries: dict[str, FileState]
    foreign: tuple[str, ...]


class PackDirectory:
    """The directory `<vault>/packs`.

    Raises:
        VaultError: from every method, when the operating system refuses.
    """

    def __init__(self, vault: Path) -> None:
        self.path = vault / "packs"

    def require_writable(self) -> None:
        """Check that this directory was not opened to read only."""

    def create(self) -> None:
        """Make the directory durably, or make sure that it is a writable real directory."""
        vault = self.path.parent
        with telling("open a vault at", vault):
            _make_durably(self.path)
            if not stat.S_ISDIR(os.lstat(self.path).st_mode):
                raise VaultError(
                    f"{self.path} is not a directory (symbolic links are not followed): remove it"
                )
            probe = self.path / f"{new_pack_name()}.tmp"
            os.close(os.open(probe, _CREATE, 0o666))
            probe.unlink()

    def listing(self) -> Listing:
        """Look at the directory once."""
        found = Listing({}, {}, {}, ())
        foreign = []
        with telling("list", self.path), os.scandir(self.path) as files:
            for file in files:
                try:
                    status = file.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # another process renamed or deleted it meanwhile
                state = FileState(status.st_size, status.st_mtime)
                kind = _kind(found, file.name) if stat.S_ISREG(status.st_mode) else None
                if kind is None:
                    foreign.append(file.name)
                else:
                    kind[_pack_of(file.name)] = state
        return Listing(found.packs, found.tombstones, found.temporaries, tuple(sorted(foreign)))

    @contextmanager
    def open_pack(self, pack: str) -> Iterator[int]:
        """Open a pack for reading, as a file descriptor.

        Raises:
            PackGoneError: there is no such pack (any more).
        """
        path = self.path / _checked(pack)
        with telling("read", path):
            try:
                descriptor = os.open(path, _READ)
            except FileNotFoundError as error:
                raise PackGoneError(
                    f"pack {pack} is not in {self.path}: it was collected, moved or deleted"
                ) from error
            try:
                yield descriptor
            finally:
                os.close(descriptor)

    def create_temporary(self, pack: str) -> int:
        """Create the temporary of a new pack, exclusively, and return its file descriptor."""
        return os.open(self._temporary(pack), _CREATE, 0o666)

    def discard_temporary(self, pack: str) -> None:
        """Delete a temporary, if it is there. Never raises: this runs while another error is on its way."""
        try:
            self._temporary(pack).unlink(missing_ok=True)
        except OSError as error:
            logger.warning(
                "could not remove %s (%s); the next start-up sweep will", self._temporary(pack), error
            )

    def publish(self, pack: str) -> None:
        """Give a finished temporary the name of its pack."""
        os.rename(self._temporary(pack), self.path / _checked(pack))

    def sync(self) -> None:
        """Make the names in the directory durable."""
        with telling("make durable", self.path):
            _fsync(self.path)

    def bury(self, pack: str) -> None:
        """Put up a tombstone, durably: new captures stop relying on this pack."""
        path = self._tombstone(pack)
        with telling("write", path):
            os.close(os.open(path, _CREATE, 0o666))
        self.sync()

    def revive(self, pack: str) -> None:
        """Take the tombstone down."""
        with telling("remove", self._tombstone(pack)):
            self._tombstone(pack).unlink(missing_ok=True)

    def delete(self, pack: str) -> None:
        """Delete a pack, durably. Its tombstone stays until what the index says about it is gone too."""
        path = self.path / _checked(pack)
        with telling("delete", path):
            path.unlink(missing_ok=True)
        self.sync()

    def remove_leftovers(self, older_than_seconds: float) -> None:
        """Remove temporaries that nobody wrote to for so long: their writers were killed."""
        for pack, state in self.listing().temporaries.items():
            if time.time() - state.changed_at >= older_than_seconds:
                logger.info("removing %s, left by a writer that did not finish", self._temporary(pack))
                self.discard_temporary(pack)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Be the only one, among all processes, who collects garbage.

        Raises:
            VaultError: another one is collecting right now.
        """
        path = self.path.parent / "garbage.lock"
        with telling("lock", path):
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise VaultError(
                    f"garbage of {self.path.parent} is being collected already: try again later"
                ) from error
            yield
        finally:
            os.close(lock)

    def _temporary(self, pack: str) -> Path:
        return self.path / f"{_checked(pack)}.tmp"

    def _tombstone(self, pack: str) -> Path:
        return self.path / f"{_checked(pack)}.dead"


class ReadOnlyPackDirectory(PackDirectory):
    """The directory `<vault>/packs` of a vault in which nothing is written."""

    def require_writable(self) -> None:
        """Raise VaultError: it was."""
        raise VaultError(
            f"the vault {self.path.parent} was opened read-only: open it with Vault.open to write"
        )

    def create(self) -> None:
        """Make sure that the directory is there; none is ever made."""
        with telling("open a vault at", self.path.parent):
            there = self.path.is_dir()
        if not there:
            raise VaultError(
                f"there is no vault at {self.path.parent}: name the directory that holds `packs`"
            )

    def sync(self) -> None:
        """Do nothing: who only reads promises nobody that it lasts."""


def new_pack_name() -> str:
    """Return a name that no other process will choose."""
    return f"{uuid.uuid4().hex}.pack"


def is_pack_name(text: object) -> bool:
    """Say whether `text` has the form of a pack's name."""
    return isinstance(text, str) and _PACK.fullmatch(text) is not None


def _checked(pack: str) -> str:
    if not is_pack_name(pack):
        raise UsageError(f"{pack!r} is not the name of a pack, which is 32 lower-case hex digits and '.pack'")
    return pack


def _kind(listing: Listing, name: str) -> dict[str, FileState] | None:
    if _PACK.fullmatch(name):
        return listing.packs
    if _TOMBSTONE.fullmatch(name):
        return listing.tombstones
    if _TEMPORARY.fullmatch(name):
        return listing.temporaries
    return None


def _pack_of(name: str) -> str:
    return name.removesuffix(".tmp").removesuffix(".dead")


def _make_durably(directory: Path) -> None:
    if not directory.is_dir():
        _make_durably(directory.parent)
        directory.mkdir(exist_ok=True)
        _fsync(directory.parent)


def _fsync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
