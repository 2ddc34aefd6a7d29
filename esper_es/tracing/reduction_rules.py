"""Sums, means, extrema, softmax: operators that mix the elements along some dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from esper_es.tracing.elementwise_rules import pointwise
from esper_es.tracing.operation import Operation
from esper_es.tracing.rule_table import existing, rule
from esper_es.tracing.shadow import Shadow, relocated

aten = torch.ops.aten


def mix(op: Operation, shadows: Iterable[Shadow], dims: Sequence[int]) -> list[Shadow]:
    """Note that an operator mixes the elements along ``dims``; return what still varies along the others.

    Channels that lie along mixed dimensions only are reduced over. Those that also vary along others are
    bundled instead: each such group is mixed by itself, and whole groups may come and go.
    """
    left = []
    for shadow in shadows:
        outside = tuple(dim for dim in shadow.dims if dim not in dims)
        if not outside:
            op.reduce(shadow.ids)
        elif len(outside) == len(shadow.dims):
            left.append(shadow)
        else:
            left.append(Shadow(outside, op.collapse(shadow, outside)))
    return left


@rule(aten._softmax, aten._log_softmax, aten.cumsum, aten.cumprod, aten.logcumsumexp)
@rule(*existing(aten, "_safe_softmax"))
def softmax(op: Operation) -> None:
    """Mixes the elements along one dimension and keeps the shape."""
    mix(op, op.shadows(op.input), [op.dim()])
    op.carry(op.result, op.shadows(op.input))


@rule(aten.mean, aten.sum, aten.nansum, aten.prod, aten.var, aten.std, aten.var_mean, aten.std_mean)
@rule(aten.amax, aten.amin, aten.logsumexp, aten.linalg_vector_norm, aten.norm, aten.any, aten.all)
def reduction(op: Operation) -> None:
    """Mixes the elements along the reduced dimensions, which disappear or stay with size 1."""
    _reduce(op, op.dims() if op.has_arg("dim") else tuple(range(op.input.ndim)))


@rule(aten.max, aten.min)
def extremum(op: Operation) -> None:
    """Three operators in one: of all elements, along a dimension, or of two tensors element by element."""
    if op.func._overloadname == "other":
        pointwise(op)
    else:
        reduction(op)


@rule(aten.argmax, aten.argmin)
def extremal_index(op: Operation) -> None:
    """The result counts channels, so these must keep their places."""
    dims = op.dims()
    for shadow in op.shadows(op.input):
        if set(shadow.dims) & set(dims):
            op.pin(shadow.ids, "is counted by")
    _reduce(op, dims)


@rule(aten.topk)
def topk(op: Operation) -> None:
    """The largest along one dimension: which of them these are depends on the values, so all keep their places."""
    dim = op.dim()
    kept = []
    for shadow in op.shadows(op.input):
        if dim in shadow.dims:
            op.pin(shadow.ids, "is ranked by value in")
        else:
            kept.append(shadow)
    for result in op.results:
        op.carry(result, kept)


def _reduce(op: Operation, dims: Sequence[int]) -> None:
    keepdim = op.has_arg("keepdim") and op.arg("keepdim")
    place = {
        dim: dim if keepdim else dim - sum(gone < dim for gone in dims)
        for dim in range(op.input.ndim)
        if dim not in dims
    }
    left = [relocated(shadow, place) for shadow in mix(op, op.shadows(op.input), dims)]
    for result in op.results:
        op.carry(result, left)
