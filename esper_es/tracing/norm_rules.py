"""Normalisation: affine parameters and statistics belong to the channels; some norms mix the channels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from esper_es.tracing.meeting import Operand, meet, operand
from esper_es.tracing.operation import Operation
from esper_es.tracing.reduction_rules import mix
from esper_es.tracing.roles import Role
from esper_es.tracing.rule_table import existing, rule
from esper_es.tracing.shadow import Shadow, split_dim

aten = torch.ops.aten


@rule(aten.native_batch_norm, aten._native_batch_norm_legit, aten._native_batch_norm_legit_no_training)
@rule(*existing(aten, "cudnn_batch_norm", "miopen_batch_norm", "_batch_norm_no_update"))
def batch_norm(op: Operation) -> None:
    """Every channel by itself: affine parameters and running statistics are the same channel.

    Statistics of what is given (a standardised weight, as one batch) mix everything else.
    """
    given = op.arg("training") if op.has_arg("training") else not op.has_arg("running_mean")
    if given:
        mix(op, op.shadows(op.input), [dim for dim in range(op.input.ndim) if dim != 1])
    vectors: list[tuple[torch.Tensor | None, Role]] = [
        (op.arg("weight"), "affine"),
        (op.arg("bias"), "affine"),
        (op.arg("running_mean") if op.has_arg("running_mean") else None, "statistic"),
        (op.arg("running_var") if op.has_arg("running_var") else None, "statistic"),
    ]
    x = operand(op, op.input, range(op.input.ndim))
    per_channel = [_playing(op, vector, [1], role) for vector, role in vectors if vector is not None]
    op.carry(op.results[0], meet(op, [x, *per_channel], x.labels))


@rule(aten.native_layer_norm, *existing(aten, "_fused_rms_norm"))
def layer_norm(op: Operation) -> None:
    """Mixes all channels of the normalised dimensions."""
    ndim = op.input.ndim
    normalised = range(ndim - len(op.arg("normalized_shape")), ndim)
    mix(op, op.shadows(op.input), normalised)
    _affine_result(op, normalised)


@rule(aten.native_group_norm)
def group_norm(op: Operation) -> None:
    """The channels of one norm group come and go together; a single group mixes all channels."""
    groups, channels = op.arg("group"), op.input.shape[1]
    space = range(2, op.input.ndim)
    if groups == 1:
        mix(op, op.shadows(op.input), [1, *space])
    elif groups < channels:
        for shadow in op.shadows(op.input):
            if 1 in shadow.dims:
                parted = split_dim(shadow, 1, groups)
                op.collapse(parted, [dim for dim in parted.dims if dim < 2])
    _affine_result(op, [1])


@rule(*existing(aten, "_weight_norm_interface"))
def weight_norm(op: Operation) -> None:
    """Direction v and magnitude g of a weight (Salimans and Kingma, 2016): g runs along one dim of v."""
    direction, magnitude, dim = op.args[0], op.args[1], op.dim()
    v = operand(op, direction, range(direction.ndim))
    mix(op, v.shadows, [d for d in range(direction.ndim) if d != dim])
    along = tuple(shadow for shadow in op.shadows(magnitude) if shadow.dims == (dim,))
    g = operand(op, magnitude, range(magnitude.ndim))._replace(shadows=along)
    op.carry(op.results[0], meet(op, [v, g], v.labels))


def _playing(op: Operation, tensor: torch.Tensor, labels: Sequence[int], role: Role) -> Operand:
    vector = operand(op, tensor, labels)
    for shadow in vector.shadows:
        op.play(shadow.ids, role)
    return vector


def _affine_result(op: Operation, labels: Iterable[int]) -> None:
    """The first result is the input scaled and shifted along these dimensions by weight and bias."""
    dims = list(labels)
    x = operand(op, op.input, range(op.input.ndim))
    given = [op.arg(name) for name in ("weight", "bias") if op.has_arg(name)]
    vectors = [_playing(op, vector, dims, "affine") for vector in given if vector is not None]
    shadows: list[Shadow] = meet(op, [x, *vectors], x.labels)
    op.carry(op.results[0], shadows)
