"""Shadows: which channel stands at which index of a tensor, and how they move with it.

A shadow holds ids only over the dimensions along which they vary; along all others it is constant and never
materialised. So permuting or slicing a feature map costs as much as its channel vector, and a reshape
materialises just the block of dimensions that it mixes. Everything here is a pure function on numpy arrays.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from esper_es.tracing.union_find import Ids

NOBODY = -1
"""The id of an index that holds no channel, such as the rows of an untracked operand in a concatenation."""


class Shadow(NamedTuple):
    """Channel ids of one tensor.

    ``dims`` are ascending dimensions of the tensor, ``ids`` has one axis for each, of that dimension's size.
    """

    dims: tuple[int, ...]
    ids: Ids

    def axis(self, dim: int) -> int:
        return self.dims.index(dim)


def relocated(shadow: Shadow, target: Mapping[int, int]) -> Shadow:
    """The shadow after each of its dimensions ``d`` became ``target[d]``."""
    dims = tuple(target[dim] for dim in shadow.dims)
    if all(a < b for a, b in pairwise(dims)):
        return Shadow(dims, shadow.ids)
    order = sorted(range(len(dims)), key=dims.__getitem__)
    return Shadow(tuple(dims[axis] for axis in order), shadow.ids.transpose(order))


def without_dim(shadow: Shadow, dim: int) -> Shadow:
    """Renumber after ``dim``, which the shadow does not cover, disappeared from the tensor."""
    return Shadow(tuple(d - (d > dim) for d in shadow.dims), shadow.ids)


def with_dim(shadow: Shadow, dim: int) -> Shadow:
    """Renumber after a new dimension was inserted at ``dim``."""
    return Shadow(tuple(d + (d >= dim) for d in shadow.dims), shadow.ids)


def picked(shadow: Shadow, dim: int, index: slice | Ids) -> Shadow:
    """The entries of one covered dimension, chosen by a slice or by an array of indices."""
    where: list[slice | Ids] = [slice(None)] * len(shadow.dims)
    where[shadow.axis(dim)] = index
    return Shadow(shadow.dims, shadow.ids[tuple(where)])


def selected(shadow: Shadow, dim: int, index: int) -> Shadow:
    """The entry ``index`` of one covered dimension, which then disappears from the tensor."""
    rest = tuple(d for d in shadow.dims if d != dim)
    where = tuple(index if d == dim else slice(None) for d in shadow.dims)
    ids: Ids = shadow.ids[where]
    return without_dim(Shadow(rest, ids), dim)


def constant_over(shadow: Shadow, repeated: Collection[int]) -> Shadow | None:
    """The shadow after dimensions of size 1 became longer; None if all that it covers did: one channel everywhere."""
    axes = tuple(axis for axis, dim in enumerate(shadow.dims) if dim in repeated)
    if not axes:
        return shadow
    if len(axes) == len(shadow.dims):
        return None
    return Shadow(tuple(dim for dim in shadow.dims if dim not in repeated), shadow.ids.squeeze(axis=axes))


def split_dim(shadow: Shadow, dim: int, parts: int) -> Shadow:
    """The shadow after ``dim`` of size n became two dimensions (parts, n / parts)."""
    if dim not in shadow.dims:
        return with_dim(shadow, dim + 1)
    axis = shadow.axis(dim)
    size = shadow.ids.shape[axis]
    shape = (*shadow.ids.shape[:axis], parts, size // parts, *shadow.ids.shape[axis + 1 :])
    before, after = shadow.dims[:axis], shadow.dims[axis + 1 :]
    dims = (*before, dim, dim + 1, *(d + 1 for d in after))
    return _without_lone_axes(Shadow(dims, shadow.ids.reshape(shape)), {dim, dim + 1}, keep=dim)


def joined_dims(shadow: Shadow, dim: int, sizes: tuple[int, int]) -> Shadow:
    """The shadow after dimensions (dim, dim + 1) of these sizes became one dimension."""
    covered = [d for d in (dim, dim + 1) if d in shadow.dims]
    if not covered:
        return without_dim(shadow, dim + 1)
    axis = shadow.axis(covered[0])
    rest = shadow.ids.shape[axis + len(covered) :]
    block = tuple(size if d in covered else 1 for d, size in zip((dim, dim + 1), sizes, strict=True))
    ids = shadow.ids.reshape(*shadow.ids.shape[:axis], *block, *rest)
    ids = np.broadcast_to(ids, (*ids.shape[:axis], *sizes, *rest))
    ids = ids.reshape(*ids.shape[:axis], sizes[0] * sizes[1], *rest)
    after = (d - 1 for d in shadow.dims[axis + len(covered) :])
    return Shadow((*shadow.dims[:axis], dim, *after), ids)


def collapsed(shadow: Shadow, onto: Sequence[int]) -> Ids:
    """One representative, the largest id, for each index of the dimensions ``onto``; axes in that order."""
    kept = [shadow.axis(dim) for dim in onto]
    gone = [axis for axis in range(len(shadow.dims)) if axis not in kept]
    ids = shadow.ids.transpose(kept + gone)
    return ids.max(axis=tuple(range(len(kept), ids.ndim))) if gone else ids


def spread(heads: Ids, shadow: Shadow, onto: Sequence[int]) -> Ids:
    """Representatives along ``onto``, repeated along the other dimensions of a shadow: as large as its ids."""
    order = sorted(range(len(onto)), key=lambda axis: onto[axis])
    sizes = [size if dim in onto else 1 for dim, size in zip(shadow.dims, shadow.ids.shape, strict=True)]
    return np.broadcast_to(heads.transpose(order).reshape(sizes), shadow.ids.shape)


class Block(NamedTuple):
    """Neighbouring dimensions ``old`` of a tensor that a reshape turns into dimensions ``new``."""

    old: range
    new: range


def reshape_blocks(old: Sequence[int], new: Sequence[int]) -> list[Block]:
    """The finest alignment of two shapes: a block has equally many elements before and after."""
    blocks: list[Block] = []
    i = j = 0
    while i < len(old) or j < len(new):
        i0, j0 = i, j
        a = old[i] if i < len(old) else 1
        b = new[j] if j < len(new) else 1
        i, j = min(i + 1, len(old)), min(j + 1, len(new))
        while a != b:
            if a < b:
                a, i = a * old[i], i + 1
            else:
                b, j = b * new[j], j + 1
        blocks.append(Block(range(i0, i), range(j0, j)))
    return blocks


def reshaped(
    shadow: Shadow, old: Sequence[int], new: Sequence[int], blocks: Sequence[Block]
) -> Shadow | None:
    """The shadow after a reshape; None if a dimension of one channel was dropped with nowhere to go.

    Only blocks that the shadow covers are materialised. A dimension that was split off again and along which
    nothing varies is left out, so flatten followed by unflatten gives back the same shadow.
    """
    touched = [block for block in blocks if any(dim in shadow.dims for dim in block.old)]
    if any(len(block.new) == 0 for block in touched):
        return None
    full = [dim for block in touched for dim in block.old]
    placed = shadow.ids.reshape([old[dim] if dim in shadow.dims else 1 for dim in full])
    dims = tuple(dim for block in touched for dim in block.new)
    ids = np.broadcast_to(placed, [old[dim] for dim in full]).reshape([new[dim] for dim in dims])
    result = Shadow(dims, ids)
    for block in touched:
        if len(block.new) > 1 or len(block.old) > 1:
            lone = all(new[dim] == 1 for dim in block.new)
            result = _without_lone_axes(result, set(block.new), keep=block.new[0] if lone else None)
    return _without_constant_axes(result, {dim for b in touched if len(b.new) > 1 for dim in b.new})


def _without_lone_axes(shadow: Shadow, among: set[int], keep: int | None) -> Shadow:
    axes = [a for a, d in enumerate(shadow.dims) if d in among and d != keep and shadow.ids.shape[a] == 1]
    if not axes:
        return shadow
    return Shadow(
        tuple(dim for axis, dim in enumerate(shadow.dims) if axis not in axes),
        shadow.ids.squeeze(axis=tuple(axes)),
    )


def _without_constant_axes(shadow: Shadow, among: set[int]) -> Shadow:
    axes = [a for a, d in enumerate(shadow.dims) if d in among and constant_along(shadow.ids, a)]
    if not axes or len(axes) == len(shadow.dims):
        return shadow
    rest = tuple(dim for axis, dim in enumerate(shadow.dims) if axis not in axes)
    return Shadow(
        rest, shadow.ids[tuple(0 if axis in axes else slice(None) for axis in range(shadow.ids.ndim))]
    )


def constant_along(ids: Ids, axis: int) -> bool:
    """Whether nothing varies along an axis longer than one."""
    if ids.shape[axis] < 2:
        return False
    first = ids.take([0], axis=axis)
    second = ids.take([1], axis=axis)
    return bool((first == second).all()) and bool((ids == first).all())
