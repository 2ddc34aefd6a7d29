"""Gather maps: where each index of a resized tensor dimension comes from, run-length encoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attrs import field, frozen

NEW = -1
"""The source of an index that did not exist before."""


def _runs(value: Iterable[Iterable[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((int(start), int(length)) for start, length in value)


@frozen
class IndexMap:
    """Maps each new index of a dimension to an old index, or to ``NEW``.

    Attributes:
        runs: ``(start, length)`` pairs in order; ``start`` is an old index, or -1 for new entries.
    """

    runs: tuple[tuple[int, int], ...] = field(converter=_runs)

    @runs.validator
    def _check(self, _: object, runs: tuple[tuple[int, int], ...]) -> None:
        for start, length in runs:
            if length < 1 or start < NEW:
                raise ValueError(f"a run is (start >= -1, length >= 1), got ({start}, {length})")

    @classmethod
    def of(cls, indices: Iterable[int]) -> IndexMap:
        """Encode a plain list of old indices (-1 for new)."""
        runs: list[list[int]] = []
        for index in indices:
            if runs:
                start, length = runs[-1]
                extends = index == NEW if start == NEW else index == start + length
                if extends:
                    runs[-1][1] += 1
                    continue
            runs.append([int(index), 1])
        return cls(tuple((start, length) for start, length in runs))

    def __len__(self) -> int:
        return sum(length for _, length in self.runs)

    def __iter__(self) -> Iterator[int]:
        for start, length in self.runs:
            if start == NEW:
                yield from (NEW for _ in range(length))
            else:
                yield from range(start, start + length)

    @property
    def added(self) -> int:
        """How many indices are new."""
        return sum(length for start, length in self.runs if start == NEW)

    @property
    def kept(self) -> int:
        """How many indices come from the old dimension."""
        return len(self) - self.added

    def require_fits(self, size: int) -> None:
        """Check that every source lies inside an old dimension of ``size`` entries.

        Raises:
            ValueError: if one does not.
        """
        for start, length in self.runs:
            if start != NEW and start + length > size:
                raise ValueError(f"index map reads {start + length} entries of a dimension of {size}")
