"""Operators that read by index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from esper_es.tracing.carry import Origin
from esper_es.tracing.operation import Operation
from esper_es.tracing.rule_table import rule
from esper_es.tracing.shadow import Shadow, picked, relocated

aten = torch.ops.aten


@rule(aten.embedding)
def embedding(op: Operation) -> None:
    """The embedding dimension carries on; the vocabulary stays as it is."""
    weight, indices = op.args[:2]
    op.pin_all(indices, "is used as an index by")
    last = op.result.ndim - 1
    kept = []
    for shadow in op.shadows(weight):
        if 0 in shadow.dims:
            op.pin(shadow.ids, "is looked up by index in")
            op.play(shadow.ids, "consumer")
        else:
            op.play(shadow.ids, "producer")
            kept.append(relocated(shadow, {1: last}))
    op.carry(op.result, kept)


@rule(aten.index_select, moves=True)
def index_select(op: Operation) -> None:
    """Entries of one dimension by constant indices."""
    dim, index = op.dim(), op.arg("index")
    op.pin_all(index, "is used as an index by")
    if op.origin(index) > Origin.CONSTANT:
        for shadow in op.shadows(op.input):
            if dim in shadow.dims:
                op.pin(shadow.ids, "is looked up by index in")
    where = index.reshape(-1).cpu().numpy()
    op.move(lambda shadow: picked(shadow, dim, where) if dim in shadow.dims else shadow)


@rule(aten.gather, moves=True)
def gather(op: Operation) -> None:
    """Elements along one dimension, each by its own index; the other dimensions stay, cut to the index's size."""
    dim, index = op.dim(), op.arg("index")
    op.pin_all(index, "is used as an index by")
    kept = []
    for shadow in op.shadows(op.input):
        if dim in shadow.dims:
            op.pin(shadow.ids, "is looked up by index in")
            continue
        for other in shadow.dims:
            shadow = picked(shadow, other, slice(index.shape[other]))
        kept.append(shadow)
    op.carry(op.result, kept)


@rule(aten.index, moves=True)
def index(op: Operation) -> None:
    """Advanced indexing. Channels along dimensions that are indexed by constants follow the indices."""
    given: list[torch.Tensor | None] = op.arg("indices")
    if any(op.shadows(each) for each in given if each is not None):
        for tensor in op.tensors:
            op.pin_all(tensor, "is chosen by value in")
        return
    constant = all(op.origin(each) <= Origin.CONSTANT for each in given if each is not None)
    indices = by_dim(given)
    width = max(each.ndim for each in indices.values())
    adjacent = max(indices) - min(indices) + 1 == len(indices)
    start = min(indices) if adjacent else 0
    untouched = [dim for dim in range(op.input.ndim) if dim not in indices]
    place = {dim: i + (width if i >= start else 0) for i, dim in enumerate(untouched)}
    kept = []
    for shadow in op.shadows(op.input):
        if all(dim in place for dim in shadow.dims):
            kept.append(relocated(shadow, place))
        elif constant:
            kept.append(_chosen(shadow, indices, range(start, start + width), place, op.result.shape))
        else:
            op.pin(shadow.ids, "is looked up by index in")
    op.carry(op.result, kept)


def _chosen(
    shadow: Shadow,
    indices: Mapping[int, torch.Tensor],
    window: range,
    place: Mapping[int, int],
    sizes: Sequence[int],
) -> Shadow:
    """The entries of a shadow at constant indices, which the result has on the dimensions ``window``.

    Along a dimension of the window over which its indices are broadcast the shadow is constant.
    """
    touched = [dim for dim in shadow.dims if dim in indices]
    others = [dim for dim in shadow.dims if dim not in indices]
    where = np.broadcast_arrays(*(indices[dim].cpu().numpy() for dim in touched))
    ids = shadow.ids.transpose([shadow.axis(dim) for dim in (*touched, *others)])[tuple(where)]
    first = window.stop - where[0].ndim
    axes = [axis for axis in range(where[0].ndim) if where[0].shape[axis] == sizes[first + axis]]
    ids = ids.reshape([ids.shape[axis] for axis in (*axes, *range(where[0].ndim, ids.ndim))])
    dims = (*(first + axis for axis in axes), *(place[dim] for dim in others))
    return relocated(Shadow(tuple(range(len(dims))), ids), dict(enumerate(dims)))


def by_dim(given: Sequence[torch.Tensor | None]) -> dict[int, torch.Tensor]:
    """The index tensor of each indexed dimension; a mask of n dimensions stands for n tensors of indices."""
    indices: dict[int, torch.Tensor] = {}
    dim = 0
    for each in given:
        if each is None:
            dim += 1
        elif each.dtype in (torch.bool, torch.uint8):
            for part in each.nonzero(as_tuple=True):
                indices[dim] = part
                dim += 1
        else:
            indices[dim] = each
            dim += 1
    return indices
