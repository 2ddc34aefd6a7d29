"""Products with vectors: a weight's with a vector that is kept beside it measures the weight.

Spectral norm keeps the first singular vectors ``u`` and ``v`` of a weight in buffers, and divides the weight by the
number ``u W v``. Their entries belong to the weight's channels; entries of zero change nothing.
"""

from __future__ import annotations

import torch

from esper_es.tracing.carry import Origin
from esper_es.tracing.contraction_rules import contract, untabled
from esper_es.tracing.operation import Operation
from esper_es.tracing.rule_table import rule
from esper_es.tracing.shadow import Shadow

aten = torch.ops.aten

MEASURING = {Origin.TABLE, Origin.WEIGHT}


@rule(aten.mv)
def mv(op: Operation) -> None:
    matrix, vector = op.args
    if op.origin(matrix) is Origin.WEIGHT and op.origin(vector) is Origin.TABLE:
        op.carry(op.result, _measured(op, matrix, vector))
    else:
        met = [untabled(op, matrix, "mk"), untabled(op, vector, "k")]
        op.carry(op.result, contract(op, met, "m"))


@rule(aten.dot, aten.vdot)
def dot(op: Operation) -> None:
    left, right = op.args
    if {op.origin(left), op.origin(right)} == MEASURING:
        weight, vector = (left, right) if op.origin(left) is Origin.WEIGHT else (right, left)
        op.carry(op.result, _measured(op, weight, vector))
    else:
        met = [untabled(op, left, "k"), untabled(op, right, "k")]
        op.carry(op.result, contract(op, met, ""))


def _measured(op: Operation, weight: torch.Tensor, vector: torch.Tensor) -> list[Shadow]:
    """The vector follows what runs along the last dimension of the weight; return what runs along the others."""
    last = weight.ndim - 1
    shadows = op.shadows(weight)
    along = [shadow.ids for shadow in shadows if shadow.dims == (last,)]
    for shadow in op.shadows(vector):
        op.follow(shadow.ids, along)
        op.play(shadow.ids, "statistic")
    others = [(s, [dim for dim in s.dims if dim != last]) for s in shadows if s.dims != (last,)]
    return [Shadow(tuple(rest), op.collapse(shadow, rest)) for shadow, rest in others]
