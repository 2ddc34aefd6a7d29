"""A piece of content on its way into the vault: what it is called, and how to walk through its bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from attrs import field, frozen

SLICE = 2 << 20
"""Bytes handed to the disk or to a hash at a time."""


@frozen
class Content:
    """A tensor (dtype and shape given) or opaque bytes (neither), named by digest.

    `slices` walks through exactly `length` bytes, in pieces that stay valid after the next one is taken.
    """

    digest: str
    dtype: str | None
    shape: tuple[int, ...] | None
    length: int
    slices: Callable[[], Iterator[bytes | memoryview]] = field(eq=False, repr=False)


def sliced(data: memoryview) -> Callable[[], Iterator[memoryview]]:
    """Walk through bytes in memory without copying them."""

    def slices() -> Iterator[memoryview]:
        for start in range(0, len(data), SLICE):
            yield data[start : start + SLICE]

    return slices
