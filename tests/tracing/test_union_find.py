from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from esper_es.tracing.union_find import UnionFind

SIZE = 24
EDGES = st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(0, SIZE - 1)), max_size=40)


def smallest_connected(edges: list[tuple[int, int]]) -> list[int]:
    labels = list(range(SIZE))
    changed = True
    while changed:
        changed = False
        for a, b in edges:
            low = min(labels[a], labels[b])
            changed |= labels[a] != low or labels[b] != low
            labels[a] = labels[b] = low
    return labels


@given(EDGES, st.integers(0, 40))
def test_labels_are_the_smallest_connected_member_however_unions_are_batched(
    edges: list[tuple[int, int]], cut: int
) -> None:
    sets = UnionFind(SIZE)
    for part in (edges[:cut], edges[cut:]):
        pairs = np.array(part, dtype=np.int64).reshape(-1, 2)
        sets.union(pairs[:, 0], pairs[:, 1])
    assert sets.labels().tolist() == smallest_connected(edges)


def test_a_long_chain_is_one_set() -> None:
    sets = UnionFind(100_000)
    order = np.random.default_rng(0).permutation(100_000)
    sets.union(order[:-1], order[1:])
    assert not sets.labels().any()
