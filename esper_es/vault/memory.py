"""A vault without a directory, for experiments and tests: the same laws, but gone with the process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Set
from types import TracebackType
from typing import Self

import torch
from attrs import frozen

from esper_es.domain.errors import IntegrityFailure, MissingTensorError, VaultError
from esper_es.vault.digests import RunningDigest, require_bytes_digest, require_digest, require_tensor_digest
from esper_es.vault.findings import Finding, FindingKind
from esper_es.vault.garbage import GarbageReport, require_sane
from esper_es.vault.intake import Blob, Receipt, hash_intake
from esper_es.vault.raw import empty_tensor
from esper_es.vault.space import require_quota

_PLACE = "memory"


@frozen
class _Kept:
    """One piece of content."""

    dtype: str | None
    shape: tuple[int, ...] | None
    data: bytes
    stored_at: float


class MemoryVault:
    """Has every operation of `Vault`. Safe to use from several threads."""

    def __init__(self, quota_bytes: int | None = None) -> None:
        self._quota = quota_bytes
        self._kept: dict[str, _Kept] = {}
        self._mutex = threading.RLock()
        self._closed = False

    def put(
        self, tensors: Mapping[str, torch.Tensor] | None = None, blobs: Mapping[str, Blob] | None = None
    ) -> Receipt:
        """Store copies of tensors and opaque bytes. See `Vault.put`."""
        intake = hash_intake(tensors or {}, blobs or {})
        with self._mutex:
            self._require_open()
            fresh = [content for digest, content in intake.unique.items() if digest not in self._kept]
            size = sum(content.length for content in fresh)
            self.ensure_room(size)
            for content in fresh:
                data = b"".join(content.slices())
                self._kept[content.digest] = _Kept(content.dtype, content.shape, data, time.monotonic())
            return intake.receipt(_PLACE if fresh else None, size)

    def put_tensors(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
        """Store tensors and return name -> digest."""
        return self.put(tensors).tensors

    def put_bytes(self, data: bytes) -> str:
        """Store opaque bytes and return their digest, "sha256:<hex>"."""
        return self.put(blobs={"data": data}).blobs["data"]

    def get(self, digest: str) -> torch.Tensor:
        """Return a tensor as a fresh, writable, contiguous CPU copy, verified. Raises as `Vault.get` does."""
        require_tensor_digest(digest)
        kept = self._verified(digest)
        if kept.dtype is None or kept.shape is None:
            raise IntegrityFailure(f"{digest} is kept as bytes, not as a tensor")
        tensor, view = empty_tensor(kept.dtype, kept.shape)
        view[:] = kept.data
        return tensor

    def get_bytes(self, digest: str) -> bytes:
        """Return opaque bytes, verified. Raises as `Vault.get` does."""
        require_bytes_digest(digest)
        return self._verified(digest).data

    def contains(self, digest: str) -> bool:
        """Say whether content with this digest is stored."""
        return not self.missing([digest])

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Return those of the digests that are not stored, each once, in their order."""
        self._require_open()
        wanted = list(dict.fromkeys(digests))
        for digest in wanted:
            require_digest(digest)
        return [digest for digest in wanted if digest not in self._kept]

    def digests(self) -> set[str]:
        """Return the digests of everything stored."""
        self._require_open()
        with self._mutex:
            return set(self._kept)

    def size_bytes(self) -> int:
        """Return the bytes of everything stored."""
        self._require_open()
        with self._mutex:
            return sum(len(kept.data) for kept in self._kept.values())

    def ensure_room(self, nbytes: int) -> None:
        """Raise VaultError unless so many more bytes fit into the quota."""
        require_quota(nbytes, self.size_bytes(), self._quota)

    def verify(self) -> list[Finding]:
        """Hash everything again and return what does not have its digest."""
        self._require_open()
        findings = []
        for digest in sorted(self.digests()):
            try:
                self._verified(digest)
            except IntegrityFailure as error:
                findings.append(Finding(FindingKind.DAMAGED_BLOB, _PLACE, digest, str(error)))
        return findings

    def collect_garbage(
        self,
        reachable: Set[str],
        grace_seconds: float = 3600.0,
        dry_run: bool = False,
        *,
        min_dead_share: float = 0.5,
    ) -> GarbageReport:
        """Forget what is not reachable and is older than the grace period. See `Vault.collect_garbage`."""
        self._require_open()
        require_sane(reachable, grace_seconds, min_dead_share)
        with self._mutex:
            now = time.monotonic()
            dead = [
                digest
                for digest, kept in self._kept.items()
                if digest not in reachable and now - kept.stored_at >= grace_seconds
            ]
            freed = sum(len(self._kept[digest].data) for digest in dead)
            if not dry_run:
                for digest in dead:
                    del self._kept[digest]
        return GarbageReport(dry_run, deleted=tuple(dead), freed_bytes=freed)

    def close(self) -> None:
        """Forget everything."""
        with self._mutex:
            self._closed = True
            self._kept.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return "Vault.in_memory()"

    def _verified(self, digest: str) -> _Kept:
        self._require_open()
        kept = self._kept.get(digest)
        if kept is None:
            raise MissingTensorError(f"{digest} is not in this in-memory vault: store it first")
        found = RunningDigest(kept.dtype, kept.shape)
        found.update(kept.data)
        if found.text() != digest:
            raise IntegrityFailure(
                f"the bytes of {digest} in {_PLACE} have digest {found.text()}: they were altered"
            )
        return kept

    def _require_open(self) -> None:
        if self._closed:
            raise VaultError("this in-memory vault is closed: make a new one with Vault.in_memory()")
