"""Gathering a dimension by an index map is indexing, with new entries in between."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_es.domain.index_map import NEW, IndexMap
from esper_es.projections.live.gather import gathered

FEW = settings(max_examples=50, deadline=None, derandomize=True)


@given(data=st.data(), shape=st.lists(st.integers(1, 5), min_size=1, max_size=4))
@FEW
def test_every_entry_comes_from_where_the_map_says(data: st.DataObject, shape: list[int]) -> None:
    dim = data.draw(st.integers(0, len(shape) - 1))
    indices = data.draw(st.lists(st.integers(NEW, shape[dim] - 1), min_size=1, max_size=24))
    tensor = torch.arange(1.0, 1.0 + torch.Size(shape).numel()).reshape(shape)
    added = indices.count(NEW)
    new = -torch.arange(1.0, 1.0 + torch.Size([*shape[:dim], added, *shape[dim + 1 :]]).numel())
    new = new.reshape([*shape[:dim], added, *shape[dim + 1 :]])
    result = gathered(tensor, dim, IndexMap.of(indices), new if added else None)
    fresh = iter(new.unbind(dim))
    expected = [next(fresh) if i == NEW else tensor.select(dim, i) for i in indices]
    assert torch.equal(result, torch.stack(expected, dim))


def test_new_entries_without_a_source_are_zero() -> None:
    result = gathered(torch.ones(2, 3), 1, IndexMap.of([0, NEW, 2]), None)
    assert torch.equal(result, torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 1.0]]))


def test_the_memory_format_stays() -> None:
    tensor = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    result = gathered(tensor, 0, IndexMap.of([0, 1, NEW]), None)
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_the_source_is_not_shared() -> None:
    tensor = torch.ones(3)
    gathered(tensor, 0, IndexMap.of([0, 1, 2]), None).zero_()
    assert bool(tensor.all())
