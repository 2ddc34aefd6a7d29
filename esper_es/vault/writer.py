"""Writes one pack: temporary file in the same directory, fdatasync, rename, fsync of the directory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from esper_es.failpoints import reach
from esper_es.vault.content import SLICE, Content
from esper_es.vault.directory import PackDirectory, new_pack_name
from esper_es.vault.format import ALIGNMENT, Entry, Pack, encode_ending, footer_offset, lay_out
from esper_es.vault.storage_errors import telling
from esper_es.vault.writeback import start_writeback

_PIECES = 512
"""Pieces per gathering write; the kernel takes 1024 at most."""
_WRITEBACK = 8 << 20
"""Bytes after which the kernel is asked to start writing to the disk, while more are still coming."""

_data_sync = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


def pack_size(contents: Sequence[Content]) -> int:
    """Return the size in bytes of the pack that `write_pack` would write."""
    entries = lay_out(contents)
    return footer_offset(entries) + len(encode_ending(entries))


def write_pack(directory: PackDirectory, contents: Sequence[Content]) -> Pack:
    """Write contents into a new pack. On return it is durable; on any error nothing of it stays behind.

    Raises:
        VaultError: the disk is full, read-only or failing.
    """
    name = new_pack_name()
    entries = lay_out(contents)
    with telling("write a pack into", directory.path):
        try:
            size = _write_temporary(directory, name, contents, entries)
            reach("vault.synced")
            directory.publish(name)
        except BaseException:
            directory.discard_temporary(name)
            raise
        reach("vault.renamed")
        directory.sync()
    return Pack(name, size, entries)


def _write_temporary(
    directory: PackDirectory, name: str, contents: Sequence[Content], entries: tuple[Entry, ...]
) -> int:
    descriptor = directory.create_temporary(name)
    try:
        size = _write_gathered(descriptor, _pieces(contents, entries))
        reach("vault.temporary_written")
        _data_sync(descriptor)
        return size
    finally:
        os.close(descriptor)


def _pieces(contents: Sequence[Content], entries: tuple[Entry, ...]) -> Iterator[bytes | memoryview]:
    for content in contents:
        yield from content.slices()
        yield bytes(-content.length % ALIGNMENT)
    yield encode_ending(entries)


def _write_gathered(descriptor: int, pieces: Iterator[bytes | memoryview]) -> int:
    written = flushed = 0
    waiting: list[memoryview] = []
    waiting_bytes = 0
    for piece in pieces:
        waiting.append(memoryview(piece))
        waiting_bytes += len(piece)
        if waiting_bytes >= SLICE or len(waiting) == _PIECES:
            written += _write_fully(descriptor, waiting)
            waiting, waiting_bytes = [], 0
            if written - flushed >= _WRITEBACK:
                start_writeback(descriptor, flushed, written - flushed)
                flushed = written
    return written + _write_fully(descriptor, waiting)


def _write_fully(descriptor: int, pieces: list[memoryview]) -> int:
    reach("vault.writing")
    total = sum(map(len, pieces))
    left = total
    while left:
        count = os.writev(descriptor, pieces)
        left -= count
        pieces = _after(pieces, count)
    return total


def _after(pieces: list[memoryview], count: int) -> list[memoryview]:
    for position, piece in enumerate(pieces):
        if count < len(piece):
            return [piece[count:], *pieces[position + 1 :]]
        count -= len(piece)
    return []
