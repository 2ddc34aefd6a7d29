"""Gather maps."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_es.domain.index_map import NEW, IndexMap

from .strategies import index_maps

sources = st.lists(st.integers(NEW, 20), max_size=30)


@given(sources)
def test_encoding_loses_nothing(indices: list[int]) -> None:
    assert list(IndexMap.of(indices)) == indices


@given(sources)
def test_equal_indices_have_one_encoding(indices: list[int]) -> None:
    assert IndexMap.of(IndexMap.of(indices)) == IndexMap.of(indices)


@given(sources)
def test_the_length_is_the_new_size(indices: list[int]) -> None:
    assert len(IndexMap.of(indices)) == len(indices)


@given(sources)
def test_every_index_is_new_or_kept(indices: list[int]) -> None:
    gather = IndexMap.of(indices)
    assert (gather.added, gather.kept) == (indices.count(NEW), len(indices) - indices.count(NEW))


@given(index_maps(size=21))
def test_a_map_fits_exactly_the_sizes_beyond_its_largest_source(gather: IndexMap) -> None:
    smallest = max(gather, default=NEW) + 1
    gather.require_fits(smallest)
    if smallest:
        with pytest.raises(ValueError, match=f"of a dimension of {smallest - 1}"):
            gather.require_fits(smallest - 1)


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_widening_takes_two_runs_whatever_the_width(old: int, more: int) -> None:
    assert IndexMap.of([*range(old), *[NEW] * more]).runs == ((0, old), (NEW, more))


@pytest.mark.parametrize("runs", [((0, 0),), ((0, -1),), ((-2, 1),)])
def test_a_run_that_makes_no_sense_cannot_be_made(runs: Any) -> None:
    with pytest.raises(ValueError, match="a run is"):
        IndexMap(runs)
