"""The vault: tensors and manifests by digest, durable, shared between processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Set
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import torch

from esper_es.domain.errors import IntegrityFailure, MissingTensorError, UsageError, VaultError
from esper_es.failpoints import reach
from esper_es.vault.catalog import Catalog
from esper_es.vault.digests import require_bytes_digest, require_digest, require_tensor_digest
from esper_es.vault.directory import PackDirectory, PackGoneError, ReadOnlyPackDirectory
from esper_es.vault.findings import Finding, find_damage
from esper_es.vault.format import Entry
from esper_es.vault.garbage import GarbageReport, collect, require_sane
from esper_es.vault.index import Index
from esper_es.vault.index_copy import IndexCopy
from esper_es.vault.index_database import IndexDatabase
from esper_es.vault.intake import Blob, Receipt, hash_intake
from esper_es.vault.memory import MemoryVault
from esper_es.vault.reader import read_bytes, read_tensor
from esper_es.vault.space import require_free_space, require_quota
from esper_es.vault.writer import pack_size, write_pack

INDEX = "index.db"
Value = TypeVar("Value")


class Vault:
    """A directory of packs, used by any number of threads and processes. Open it with `Vault.open`.

    Every method raises VaultError when the operating system refuses what it needs, or the vault is closed.
    """

    def __init__(self, directory: PackDirectory, index: Index, quota_bytes: int | None) -> None:
        self._path = directory.path.parent
        self._quota = quota_bytes
        self._directory = directory
        self._catalog = Catalog(directory, index)
        self._closed = False

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        quota_bytes: int | None = None,
        leftovers_after_seconds: float = 3600.0,
    ) -> Vault:
        """Open the vault at `path`, creating it if there is none, and tidy up after killed processes.

        Args:
            path: the directory of the vault.
            quota_bytes: refuse to grow beyond this size; None means as far as the disk goes.
            leftovers_after_seconds: remove unfinished files that nobody wrote to for so long.

        Raises:
            VaultError: not a writable directory, or it holds packs of a newer release.
        """
        place = _absolute(path)
        vault = cls(PackDirectory(place), Index(IndexDatabase(place / INDEX)), quota_bytes)
        vault._directory.create()
        vault._directory.remove_leftovers(leftovers_after_seconds)
        vault._catalog.finish_deletions()
        vault._catalog.catch_up()
        return vault

    @classmethod
    def open_read_only(cls, path: str | os.PathLike[str]) -> Vault:
        """Open the vault at `path` to read it: no file of it is made, changed or locked, nor need be writable.

        What is found damaged is not remembered for others. `put` and `collect_garbage` raise VaultError.

        Raises:
            VaultError: there is no vault, it cannot be read, or it holds packs of a newer release.
        """
        place = _absolute(path)
        vault = cls(ReadOnlyPackDirectory(place), Index(IndexCopy(place / INDEX)), None)
        vault._directory.create()
        vault._catalog.catch_up()
        return vault

    @staticmethod
    def in_memory(*, quota_bytes: int | None = None) -> MemoryVault:
        """Return a vault that keeps everything in memory and is gone with the process."""
        return MemoryVault(quota_bytes)

    @property
    def path(self) -> Path:
        """The directory of the vault."""
        return self._path

    def put(
        self, tensors: Mapping[str, torch.Tensor] | None = None, blobs: Mapping[str, Blob] | None = None
    ) -> Receipt:
        """Store tensors and opaque bytes. What is new goes into one pack, which is durable on return.

        Tensors must not be changed by anyone during the call. Those on a device, and those that are not
        contiguous, need a copy in host memory each until the call returns.

        Args:
            tensors: what to store, by any names.
            blobs: bytes by any names, or functions that make them (a manifest) from the tensors' digests.

        Raises:
            UsageError: no dense bytes of its own (quantized, sparse, nested, meta, lazy, wrapper subclass).
            VaultError: no room, or the disk failed. Everything stored before is still there.
        """
        self._require_open()
        self._directory.require_writable()
        intake = hash_intake(tensors or {}, blobs or {})
        reach("vault.hashed")
        known = self._catalog.stored(intake.unique, lasting=True)
        fresh = [content for digest, content in intake.unique.items() if digest not in known]
        if not fresh:
            return intake.receipt(None, 0)
        size = pack_size(fresh)
        self.ensure_room(size)
        pack = write_pack(self._directory, fresh)
        self._catalog.record(pack)
        reach("vault.indexed")
        return intake.receipt(pack.name, size)

    def put_tensors(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
        """Store tensors and return name -> digest. Raises as `put` does."""
        return self.put(tensors).tensors

    def put_bytes(self, data: bytes) -> str:
        """Store opaque bytes and return their digest, "sha256:<hex>". Raises as `put` does."""
        return self.put(blobs={"data": data}).blobs["data"]

    def get(self, digest: str) -> torch.Tensor:
        """Return a tensor as a fresh, writable, contiguous CPU copy, verified.

        Raises:
            UsageError: not a tensor digest.
            MissingTensorError: it is not in the vault.
            IntegrityFailure: no copy of it has this digest any more.
        """
        require_tensor_digest(digest)
        return self._read(digest, read_tensor)

    def get_bytes(self, digest: str) -> bytes:
        """Return opaque bytes, verified. Raises as `get` does."""
        require_bytes_digest(digest)
        return self._read(digest, read_bytes)

    def contains(self, digest: str) -> bool:
        """Say whether an intact copy (as far as is known without reading it) is stored."""
        return not self.missing([digest])

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Return those of the digests that are not stored, each once, in their order."""
        self._require_open()
        wanted = list(dict.fromkeys(digests))
        for digest in wanted:
            require_digest(digest)
        stored = self._catalog.stored(wanted, lasting=False)
        return [digest for digest in wanted if digest not in stored]

    def digests(self) -> set[str]:
        """Return the digests of everything stored and not known to be damaged."""
        self._require_open()
        return self._catalog.digests()

    def size_bytes(self) -> int:
        """Return the bytes that all packs take."""
        self._require_open()
        return sum(state.size for state in self._directory.listing().packs.values())

    def ensure_room(self, nbytes: int) -> None:
        """Raise VaultError unless so many more bytes fit into the quota and on the disk."""
        self._require_open()
        require_quota(nbytes, self.size_bytes(), self._quota)
        require_free_space(self._path, nbytes)

    def verify(self) -> list[Finding]:
        """Read every byte of every pack, compare the index with them, and return everything that is wrong."""
        self._require_open()
        return find_damage(self._directory, self._catalog)

    def collect_garbage(
        self,
        reachable: Set[str],
        grace_seconds: float = 3600.0,
        dry_run: bool = False,
        *,
        min_dead_share: float = 0.5,
    ) -> GarbageReport:
        """Delete what is not reachable: one collection buries a pack, one after the grace period deletes it.

        Args:
            reachable: every digest that any fact or manifest names, gathered just before this call.
            grace_seconds: longer than the longest capture, from hashing its first tensor to committing its
                fact. With 0, burial and deletion happen at once: only for a vault that nobody else is using.
            dry_run: change nothing, only report.
            min_dead_share: from which share of dead bytes on a pack that is still needed is repacked, 0 to 1.

        Raises:
            UsageError: something in `reachable` is not a digest, or a number is out of range.
            VaultError: another process is collecting.
        """
        self._require_open()
        self._directory.require_writable()
        require_sane(reachable, grace_seconds, min_dead_share)
        return collect(
            self._directory,
            self._catalog,
            reachable,
            grace_seconds=grace_seconds,
            min_dead_share=min_dead_share,
            dry_run=dry_run,
        )

    def close(self) -> None:
        """Close the vault; it can be opened again."""
        self._closed = True
        self._catalog.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Vault({str(self._path)!r})"

    def _read(self, digest: str, read: Callable[[PackDirectory, str, Entry], Value]) -> Value:
        self._require_open()
        failure: IntegrityFailure | VaultError | None = None
        for refresh in (None, self._catalog.catch_up, self._catalog.read_all_footers):
            if refresh is not None:
                refresh()
            for location in self._catalog.locations(digest):
                try:
                    return read(self._directory, location.pack, location.entry)
                except PackGoneError:
                    continue
                except (IntegrityFailure, VaultError) as error:
                    failure = error
        if failure is None:
            raise MissingTensorError(self._missing_message(digest))
        if isinstance(failure, IntegrityFailure):
            for location in self._catalog.locations(digest):
                self._catalog.mark_damaged(digest, location.pack)
        raise failure

    def _missing_message(self, digest: str) -> str:
        message = (
            f"{digest} is not in the vault {self._path}: restore it from a backup, or replay without tensors"
        )
        unreadable = sorted(self._catalog.unreadable)
        return f"{message}; it may have been in {', '.join(unreadable)}, damaged" if unreadable else message

    def _require_open(self) -> None:
        if self._closed:
            raise VaultError(f"the vault {self._path} is closed: open it again with Vault.open")


def _absolute(path: str | os.PathLike[str]) -> Path:
    if not os.fspath(path):
        raise UsageError("a vault needs a path, got an empty one; Vault.in_memory() needs none")
    return Path(path).absolute()
