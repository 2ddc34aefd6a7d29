"""Reads packs. Bytes are read into our own memory and verified there: what is returned is what was checked.

Not through mmap: a file that is cut short under a mapping kills the process instead of raising an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch

from esper_es.domain.errors import IntegrityFailure, VaultError
from esper_es.vault.content import SLICE, Content
from esper_es.vault.digests import RunningDigest
from esper_es.vault.directory import PackDirectory
from esper_es.vault.dtypes import DTYPES
from esper_es.vault.format import TRAILER_SIZE, Entry, Pack, aligned, decode_ending, footer_length
from esper_es.vault.raw import empty_tensor


def read_pack(directory: PackDirectory, name: str) -> Pack:
    """Return what a pack contains, by its footer.

    Raises:
        IntegrityFailure: footer or trailer are damaged.
        PackGoneError: there is no such pack.
        NewerFormatError: the pack was written by a newer release.
        VaultError: the pack cannot be read.
    """
    with directory.open_pack(name) as descriptor:
        return _ending(descriptor, name)


def damage(directory: PackDirectory, name: str) -> Iterator[tuple[str | None, str]]:
    """Read all of a pack; yield (digest of the damaged blob, or None for what is no blob; what is wrong).

    Raises:
        PackGoneError: there is no such pack.
        NewerFormatError: the pack was written by a newer release.
        VaultError: the pack cannot be read.
    """
    with directory.open_pack(name) as descriptor:
        try:
            pack = _ending(descriptor, name)
        except IntegrityFailure as error:
            yield None, str(error)
            return
        for entry in pack.entries:
            try:
                for _ in _verified_slices(descriptor, name, entry):
                    pass
            except IntegrityFailure as error:
                yield entry.digest, str(error)
            end = entry.offset + entry.length
            if any(_read(descriptor, name, end, aligned(end) - end)):
                yield None, f"pack {name} has no zeros in the padding at byte {end}: it was altered"


def read_tensor(directory: PackDirectory, pack: str, entry: Entry) -> torch.Tensor:
    """Return a tensor as a new one in memory, verified. Raises as `read_bytes` does."""
    if entry.dtype is None or entry.shape is None or entry.dtype not in DTYPES:
        raise VaultError(
            f"{entry.digest} has dtype {entry.dtype}, which this torch does not have: upgrade torch"
        )
    with directory.open_pack(pack) as descriptor:
        _require_within(descriptor, pack, entry)
        tensor, view = empty_tensor(entry.dtype, entry.shape)
        _fill(descriptor, pack, entry, view)
        return tensor


def read_bytes(directory: PackDirectory, pack: str, entry: Entry) -> bytes:
    """Return opaque bytes, verified.

    Raises:
        IntegrityFailure: the bytes do not have the entry's digest.
        PackGoneError: there is no such pack.
        VaultError: the pack cannot be read.
    """
    with directory.open_pack(pack) as descriptor:
        _require_within(descriptor, pack, entry)
        buffer = bytearray(entry.length)
        _fill(descriptor, pack, entry, memoryview(buffer))
        return bytes(buffer)


def stored_content(directory: PackDirectory, pack: str, entry: Entry) -> Content:
    """Return content that is copied from one pack to another; walking through it verifies it at its end."""

    def slices() -> Iterator[bytes]:
        with directory.open_pack(pack) as descriptor:
            yield from _verified_slices(descriptor, pack, entry)

    return Content(entry.digest, entry.dtype, entry.shape, entry.length, slices)


def _ending(descriptor: int, name: str) -> Pack:
    size = os.fstat(descriptor).st_size
    trailer = os.pread(descriptor, TRAILER_SIZE, max(0, size - TRAILER_SIZE))
    length = footer_length(name, trailer, size)
    footer = _read(descriptor, name, size - TRAILER_SIZE - length, length)
    return Pack(name, size, decode_ending(name, footer, trailer, size))


def _verified_slices(descriptor: int, pack: str, entry: Entry) -> Iterator[bytes]:
    digest = RunningDigest(entry.dtype, entry.shape)
    for start in range(0, entry.length, SLICE):
        piece = _read(descriptor, pack, entry.offset + start, min(SLICE, entry.length - start))
        digest.update(piece)
        yield piece
    _require_digest(digest, pack, entry)


def _fill(descriptor: int, pack: str, entry: Entry, view: memoryview) -> None:
    digest = RunningDigest(entry.dtype, entry.shape)
    done = 0
    while done < entry.length:
        piece = view[done : done + SLICE]
        count = os.preadv(descriptor, [piece], entry.offset + done)
        if count == 0:
            raise _cut_short(pack, entry.offset + done)
        digest.update(piece[:count])
        done += count
    _require_digest(digest, pack, entry)


def _read(descriptor: int, pack: str, offset: int, length: int) -> bytes:
    pieces = []
    while length:
        piece = os.pread(descriptor, length, offset)
        if not piece:
            raise _cut_short(pack, offset)
        pieces.append(piece)
        offset += len(piece)
        length -= len(piece)
    return b"".join(pieces)


def _require_within(descriptor: int, pack: str, entry: Entry) -> None:
    size = os.fstat(descriptor).st_size
    if entry.offset + entry.length > size:
        raise IntegrityFailure(
            f"{entry.digest} should end at byte {entry.offset + entry.length} of pack {pack}, "
            f"which has {size}: the pack was cut short; restore it from a backup"
        )


def _require_digest(digest: RunningDigest, pack: str, entry: Entry) -> None:
    found = digest.text()
    if found != entry.digest:
        raise IntegrityFailure(
            f"the bytes of {entry.digest} in pack {pack} have digest {found}: "
            "they were altered or damaged; restore the pack from a backup, or capture the content again"
        )


def _cut_short(pack: str, offset: int) -> IntegrityFailure:
    return IntegrityFailure(
        f"pack {pack} ends at byte {offset}, earlier than its footer says: it was cut short"
    )
