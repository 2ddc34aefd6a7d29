"""Operators that write by index: what is written meets what is written into, along all dimensions but the indexed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from esper_es.tracing.carry import Origin
from esper_es.tracing.lookup_rules import by_dim
from esper_es.tracing.meeting import Label, Operand, meet, operand
from esper_es.tracing.operation import Operation
from esper_es.tracing.rule_table import rule

aten = torch.ops.aten


@rule(aten.index_add, aten.index_add_, aten.index_copy, aten.index_copy_)
@rule(aten.index_reduce, aten.index_reduce_)
def index_add(op: Operation) -> None:
    """Slices along one dimension are added to those that an index names."""
    dim = op.dim()
    op.pin_all(op.arg("index"), "is used as an index by")
    source = operand(op, op.arg("source"), _elsewhere(op, dim))
    _written(op, [dim], [source])


@rule(aten.scatter_add, aten.scatter_add_, aten.scatter_reduce, aten.scatter_reduce_)
@rule(aten.scatter, aten.scatter_)
def scatter(op: Operation) -> None:
    """Elements go along one dimension, each by its own index; along all others to the same place."""
    dim, index = op.dim(), op.arg("index")
    op.pin_all(index, "is used as an index by")
    sources: list[torch.Tensor] = [op.arg("src")] if op.has_arg("src") else []
    cut = any(
        tensor.shape[d] != op.input.shape[d]
        for tensor in (index, *sources)
        for d in range(op.ndim)
        if d != dim
    )
    if cut:
        for tensor in (op.input, *sources):
            op.pin_all(tensor, "is written in part by")
        op.carry(op.result, [])
        return
    labels = _elsewhere(op, dim)
    _written(op, [dim], [operand(op, tensor, labels) for tensor in (index, *sources)])


@rule(aten.index_put, aten.index_put_, aten._index_put_impl_)
def index_put(op: Operation) -> None:
    """Advanced indexing, the other way round."""
    given: list[torch.Tensor | None] = op.arg("indices")
    values: torch.Tensor = op.arg("values")
    for each in given:
        if each is not None:
            op.pin_all(each, "is used as an index by")
    indices = by_dim(given)
    width = max(each.ndim for each in indices.values())
    adjacent = max(indices) - min(indices) + 1 == len(indices)
    start = min(indices) if adjacent else 0
    labels: list[Label] = [dim for dim in range(op.ndim) if dim not in indices]
    labels[start:start] = [f"index {i}" for i in range(width)]
    _written(op, list(indices), [operand(op, values, labels[len(labels) - values.ndim :])])


def _elsewhere(op: Operation, dim: int) -> list[Label]:
    return ["from" if d == dim else d for d in range(op.ndim)]


def _written(op: Operation, indexed: Sequence[int], sources: Sequence[Operand]) -> None:
    """The first argument after something was written into the places of these dimensions that an index names."""
    target = operand(op, op.input, range(op.ndim))
    kept = []
    for shadow in target.shadows:
        if any(dim in indexed for dim in shadow.dims):
            op.pin(shadow.ids, "is written by index in")
        else:
            kept.append(shadow)
    target = target._replace(shadows=tuple(kept))
    if op.func._schema.is_mutable and target.origin is Origin.UNIFORM and not _is_whole(op.input):
        target = target._replace(origin=Origin.CONSTANT)
    op.carry(op.result, meet(op, [target, *sources], target.labels))


def _is_whole(tensor: torch.Tensor) -> bool:
    """Whether a tensor is all of its memory, so that nothing larger holds what is written into it."""
    return tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
