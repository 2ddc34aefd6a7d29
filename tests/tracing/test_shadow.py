from __future__ import annotations

import math

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from esper_es.tracing.shadow import (
    Shadow,
    joined_dims,
    relocated,
    reshape_blocks,
    reshaped,
    split_dim,
)

SHAPES = st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4)


def materialised(shadow: Shadow, shape: list[int]) -> np.ndarray:
    sizes = [shape[dim] if dim in shadow.dims else 1 for dim in range(len(shape))]
    return np.broadcast_to(shadow.ids.reshape(sizes), shape)


@st.composite
def shadows(draw: st.DrawFn) -> tuple[Shadow, list[int]]:
    shape = draw(SHAPES)
    dims = tuple(sorted(draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))))
    sizes = [shape[dim] for dim in dims]
    return Shadow(dims, np.arange(math.prod(sizes)).reshape(sizes)), shape


@st.composite
def refactored(draw: st.DrawFn, size: int) -> list[int]:
    shape = []
    while size > 1:
        factor = draw(st.sampled_from([n for n in range(2, size + 1) if size % n == 0]))
        shape.append(factor)
        size //= factor
    for _ in range(draw(st.integers(0, 2))):
        shape.insert(draw(st.integers(0, len(shape))), 1)
    return shape or [1]


@given(shadows(), st.data())
def test_reshaping_a_shadow_is_reshaping_what_it_stands_for(
    example: tuple[Shadow, list[int]], data: st.DataObject
) -> None:
    shadow, old = example
    new = data.draw(refactored(math.prod(old)))
    result = reshaped(shadow, old, new, reshape_blocks(old, new))
    assume(result is not None)
    assert (materialised(result, new) == materialised(shadow, old).reshape(new)).all()


@given(shadows(), st.data())
def test_reshaping_back_and_forth_does_not_widen_a_shadow_of_several_channels(
    example: tuple[Shadow, list[int]], data: st.DataObject
) -> None:
    shadow, old = example
    assume(all(size > 1 for size in old))
    flat = [math.prod(old)]
    there = reshaped(shadow, old, flat, reshape_blocks(old, flat))
    assert there is not None
    back = reshaped(there, flat, old, reshape_blocks(flat, old))
    assert back is not None
    assert back.dims == shadow.dims
    assert (back.ids == shadow.ids).all()


@given(shadows(), st.data())
def test_relocating_a_shadow_is_permuting_what_it_stands_for(
    example: tuple[Shadow, list[int]], data: st.DataObject
) -> None:
    shadow, shape = example
    order = data.draw(st.permutations(range(len(shape))))
    result = relocated(shadow, {source: dim for dim, source in enumerate(order)})
    expected = materialised(shadow, shape).transpose(order)
    assert (materialised(result, [shape[dim] for dim in order]) == expected).all()


@given(shadows(), st.data())
def test_splitting_and_joining_a_dimension_are_reshapes(
    example: tuple[Shadow, list[int]], data: st.DataObject
) -> None:
    shadow, shape = example
    dim = data.draw(st.integers(0, len(shape) - 1))
    parts = data.draw(st.sampled_from([n for n in range(1, shape[dim] + 1) if shape[dim] % n == 0]))
    split = [*shape[:dim], parts, shape[dim] // parts, *shape[dim + 1 :]]
    parted = split_dim(shadow, dim, parts)
    assert (materialised(parted, split) == materialised(shadow, shape).reshape(split)).all()
    joined = joined_dims(parted, dim, (split[dim], split[dim + 1]))
    assert (materialised(joined, shape) == materialised(shadow, shape)).all()


def test_permuting_a_feature_map_materialises_nothing() -> None:
    shadow = Shadow((1,), np.arange(8))
    assert relocated(shadow, {0: 0, 1: 3, 2: 1, 3: 2}).ids is shadow.ids
