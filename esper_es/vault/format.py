"""The layout of a pack file.

    blob, zero padding to 64 bytes, blob, padding, ...   the content itself
    footer                                                JSON: what each blob is and where
    trailer, 64 bytes                                     its digest with the footer, length of the footer,
                                                          version of the format, magic

Blobs follow each other without gaps other than padding, so every byte of a pack is accounted for. Every later
format keeps the trailer as it is, so that an older release can tell a newer pack from a damaged one.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import orjson
from attrs import frozen
from blake3 import blake3

from esper_es.domain.errors import IntegrityFailure, VaultError
from esper_es.vault.content import Content
from esper_es.vault.digests import is_bytes_digest, is_tensor_digest
from esper_es.vault.dtypes import DTYPES

VERSION = 1
ALIGNMENT = 64
MAGIC = b"ESPER-ES PACK\r\n\x1a"
TRAILER_SIZE = 64

_TRAILER = struct.Struct("<32sQI4x16s")
_DIGEST_SIZE = 32


class NewerFormatError(VaultError):
    """A pack was written by a release that knows a format which this one does not."""


@frozen
class Entry:
    """Where one blob lies in its pack, and what it is. `dtype` and `shape` are None for opaque bytes."""

    digest: str
    dtype: str | None
    shape: tuple[int, ...] | None
    offset: int
    length: int


@frozen
class Pack:
    """A pack: its name, its size in bytes, and what it contains."""

    name: str
    size: int
    entries: tuple[Entry, ...]


def aligned(position: int) -> int:
    """Round up to the next multiple of 64."""
    return -(-position // ALIGNMENT) * ALIGNMENT


def lay_out(contents: Iterable[Content]) -> tuple[Entry, ...]:
    """Give every piece of content its place, in order."""
    entries = []
    position = 0
    for content in contents:
        entries.append(Entry(content.digest, content.dtype, content.shape, position, content.length))
        position = aligned(position + content.length)
    return tuple(entries)


def footer_offset(entries: Sequence[Entry]) -> int:
    """Return where the footer of a pack with these entries starts."""
    return aligned(entries[-1].offset + entries[-1].length) if entries else 0


def encode_ending(entries: Sequence[Entry]) -> bytes:
    """Return footer and trailer."""
    blobs = [
        {"digest": e.digest, "dtype": e.dtype, "shape": e.shape, "offset": e.offset, "length": e.length}
        for e in entries
    ]
    footer = orjson.dumps({"blobs": blobs})
    rest = _TRAILER.pack(b"", len(footer), VERSION, MAGIC)[_DIGEST_SIZE:]
    return footer + blake3(footer + rest).digest() + rest


def footer_length(pack: str, trailer: bytes, size: int) -> int:
    """Return the length of the footer, from the last 64 bytes of a pack of `size` bytes.

    Raises:
        IntegrityFailure: these bytes end no pack.
    """
    if len(trailer) != TRAILER_SIZE:
        raise IntegrityFailure(f"pack {pack} has {size} bytes, too few for a pack: it was cut short")
    _, length, _, magic = _TRAILER.unpack(trailer)
    if magic != MAGIC:
        raise IntegrityFailure(f"pack {pack} does not end with the magic bytes: it was cut short or altered")
    if length > size - TRAILER_SIZE:
        raise IntegrityFailure(
            f"pack {pack} claims a footer of {length} bytes in {size}: it was cut short or altered"
        )
    return int(length)


def decode_ending(pack: str, footer: bytes, trailer: bytes, size: int) -> tuple[Entry, ...]:
    """Return the entries of a pack of `size` bytes.

    Raises:
        IntegrityFailure: footer or trailer were altered, or do not describe a pack of this size.
        NewerFormatError: the pack is intact but of a newer format.
    """
    digest, _, version, _ = _TRAILER.unpack(trailer)
    if blake3(footer + trailer[_DIGEST_SIZE:]).digest() != digest:
        raise IntegrityFailure(f"the footer of pack {pack} does not have its digest: it was altered")
    if version != VERSION:
        raise NewerFormatError(
            f"pack {pack} has format {version}, this release reads format {VERSION}: upgrade esper-es"
        )
    entries = _entries(pack, footer)
    if footer_offset(entries) + len(footer) + TRAILER_SIZE != size:
        raise IntegrityFailure(f"the blobs of pack {pack} do not add up to its {size} bytes: it was altered")
    return entries


def is_well_formed(entry: Entry) -> bool:
    """Say whether an entry read from data can describe a tensor or bytes, before anything relies on it."""
    return _is_size(entry.offset) and _is_size(entry.length) and (_is_tensor(entry) or _is_opaque(entry))


def _entries(pack: str, footer: bytes) -> tuple[Entry, ...]:
    try:
        entries = tuple(map(_entry, orjson.loads(footer)["blobs"]))
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise IntegrityFailure(f"the footer of pack {pack} is no list of blobs") from error
    position = 0
    for entry in entries:
        if not is_well_formed(entry) or entry.offset != position:
            raise IntegrityFailure(f"the footer of pack {pack} lists {entry}, which cannot be at {position}")
        position = aligned(entry.offset + entry.length)
    return entries


def _entry(blob: dict[str, Any]) -> Entry:
    shape = None if blob["shape"] is None else tuple(blob["shape"])
    return Entry(blob["digest"], blob["dtype"], shape, blob["offset"], blob["length"])


def _is_opaque(entry: Entry) -> bool:
    return is_bytes_digest(entry.digest) and entry.dtype is None and entry.shape is None


def _is_tensor(entry: Entry) -> bool:
    if not (
        is_tensor_digest(entry.digest) and isinstance(entry.dtype, str) and isinstance(entry.shape, tuple)
    ):
        return False
    if not all(map(_is_size, entry.shape)):
        return False
    dtype = DTYPES.get(entry.dtype)
    return dtype is None or math.prod(entry.shape) * dtype.itemsize == entry.length


def _is_size(number: object) -> bool:
    return type(number) is int and 0 <= number < 1 << 63
