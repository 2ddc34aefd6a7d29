"""Disjoint sets over array indices, united edge arrays at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


class UnionFind:
    """Disjoint sets over ``0 .. size - 1``.

    Every union takes whole arrays: the root of each edge's larger end is hooked to the smaller one, then all
    paths are halved until flat. This is the hook-and-shortcut scheme of Shiloach and Vishkin, "An O(log n)
    parallel connectivity algorithm" (1982), with numpy's vector operations in the place of processors.
    """

    def __init__(self, size: int) -> None:
        self._parent: Ids = np.arange(size, dtype=np.int64)

    def union(self, left: Ids, right: Ids) -> None:
        """Put ``left[i]`` and ``right[i]`` into one set, for every ``i``."""
        left, right = self._parent[left], self._parent[right]
        while (apart := left != right).any():
            left, right = left[apart], right[apart]
            np.minimum.at(self._parent, np.maximum(left, right), np.minimum(left, right))
            self._flatten()
            left, right = self._parent[left], self._parent[right]

    def labels(self) -> Ids:
        """For every index the smallest member of its set."""
        return self._parent.copy()

    def _flatten(self) -> None:
        while not np.array_equal(shorter := self._parent[self._parent], self._parent):
            self._parent = shorter
