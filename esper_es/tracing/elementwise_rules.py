"""Operators that work element by element: channels that meet are one channel."""

from __future__ import annotations

import torch

from esper_es.tracing.carry import Origin
from esper_es.tracing.meeting import Operand, meet, operand
from esper_es.tracing.operation import Operation
from esper_es.tracing.rule_table import SUMS, elementwise, existing, rule
from esper_es.tracing.shadow import picked

aten = torch.ops.aten


@elementwise
@rule(
    aten.copy_, aten.hardswish, aten.hardswish_, aten.nan_to_num, aten.rrelu_with_noise, aten.native_dropout
)
@rule(*existing(aten, "_prelu_kernel", "log_sigmoid_forward", "_fused_dropout", "complex", "polar"))
def pointwise(op: Operation) -> None:
    """Operands are broadcast; equal places hold the same channel.

    A parameter among them is a bias if it is added, and affine otherwise.
    """
    tensors, results = op.tensors, op.results
    if len(tensors) == 1 and op.origin(tensors[0]) is not Origin.TABLE:
        for result in results:
            op.carry(result, op.shadows(tensors[0]))
        return
    ndim = max((tensor.ndim for tensor in (*tensors, *results)), default=0)
    operands = [operand(op, tensor, range(ndim - tensor.ndim, ndim)) for tensor in tensors]
    if any(o.origin is not Origin.WEIGHT for o in operands):
        for o in operands:
            if o.origin is Origin.WEIGHT:
                for shadow in o.shadows:
                    op.play(shadow.ids, "producer" if op.func.overloadpacket in SUMS else "affine")
            elif o.origin is Origin.TABLE:
                for shadow in o.shadows:
                    op.play(shadow.ids, "table")
    if op.func._schema.is_mutable:
        operands[0] = _written(operands[0])
    shadows = meet(op, operands, range(ndim))
    for result in results:
        op.carry(result, shadows)


def _written(target: Operand) -> Operand:
    """What is written into equal elements still leaves the dimension without known channels."""
    return target._replace(origin=Origin.CONSTANT) if target.origin is Origin.UNIFORM else target


@rule(aten.zero_, aten.fill_, aten.bernoulli_, aten.uniform_, aten.normal_)
@rule(aten.zeros_like, aten.ones_like, aten.full_like, aten.empty_like, aten.rand_like, aten.randn_like)
def like(op: Operation) -> None:
    """The values are new, the channels are those of the first argument: its shape follows theirs."""
    op.carry(op.result, op.shadows(op.input))


@rule(aten.glu)
def glu(op: Operation) -> None:
    """The second half gates the first: index i of both halves is one channel."""
    dim = op.dim()
    half = op.input.shape[dim] // 2
    kept = []
    for shadow in op.shadows(op.input):
        if dim in shadow.dims:
            first, second = picked(shadow, dim, slice(half)), picked(shadow, dim, slice(half, None))
            op.same(first.ids, second.ids)
            kept.append(first)
        else:
            kept.append(shadow)
    op.carry(op.result, kept)
