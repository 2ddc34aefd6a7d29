"""Asks the kernel to start writing a file's dirty pages to the disk early: the final sync then waits less.

PostgreSQL and RocksDB do the same. It is a hint: durability comes from fdatasync, so failures are ignored.
"""

from __future__ import annotations

import ctypes

_WRITE = 2
"""SYNC_FILE_RANGE_WRITE: start, do not wait. The pages stay cached, as after no posix_fadvise(DONTNEED)."""

_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)  # Linux only
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def start_writeback(descriptor: int, start: int, length: int) -> None:
    """Start writing `length` bytes from `start` to the disk and return at once."""
    if _sync_file_range is not None:
        _sync_file_range(descriptor, start, length, _WRITE)
