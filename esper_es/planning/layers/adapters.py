"""Layers that map one shape to another: bridges over removed layers, projections of skip connections."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from attrs import frozen
from torch import nn

from esper_es.domain.errors import Refused
from esper_es.planning.capacity import require_room_for_layer
from esper_es.planning.observation import Call, Observation

_CHANNELS_FIRST = (nn.Conv1d, nn.BatchNorm1d, nn.GroupNorm, nn.MaxPool1d, nn.AvgPool1d, nn.InstanceNorm1d)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.MultiheadAttention, nn.RMSNorm)

logger = logging.getLogger(__name__)


def spatial_dims(observation: Observation, call: Call) -> int:
    """Return the dimensions behind the channels in a call's output: 0 when channels come last.

    Four dimensions mean ``(N, C, H, W)``, two ``(N, C)``; of three, the nearest layer before tells.
    """
    rank = len(call.output or ())
    if rank != 3:
        return {4: 2, 5: 3}.get(rank, 0)
    calls = [c for c in observation.calls if c.example == call.example and not c.module._modules]
    before = [c for c in calls if c.end <= call.end]
    for candidate in sorted(before, key=lambda c: c.end, reverse=True):
        if isinstance(candidate.module, _CHANNELS_LAST):
            return 0
        if isinstance(candidate.module, _CHANNELS_FIRST):
            return 1
    return 0


def of_dtype(layer: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Give a new layer the dtype of the activations that it will see; integers are no dtype for weights."""
    return layer.to(dtype) if dtype.is_floating_point or dtype.is_complex else layer


def adapter(
    source: Sequence[int], target: Sequence[int], spatial: int, dtype: torch.dtype, what: str
) -> nn.Module:
    """Return an affine layer from one shape to another, initialised by torch's default.

    Args:
        source: shape of its input, batch included.
        target: shape of its output.
        spatial: dimensions behind the channels; see ``spatial_dims``.
        dtype: of its input.
        what: what it is for, in errors.

    Raises:
        Refused: if no affine layer maps the shapes, or there is no memory for it.
    """
    require_room_for_layer(lambda: _adapter(source, target, spatial, what), what)
    return of_dtype(_adapter(source, target, spatial, what), dtype)


def _adapter(source: Sequence[int], target: Sequence[int], spatial: int, what: str) -> nn.Module:
    if len(source) != len(target) or source[0] != target[0]:
        raise Refused(
            f"{what}: shapes {tuple(source)} and {tuple(target)} can't be bridged", "incompatible_shapes"
        )
    if spatial == 0:
        if tuple(source[:-1]) != tuple(target[:-1]):
            raise Refused(
                f"{what}: shapes {tuple(source)} and {tuple(target)} differ in more than the last dimension",
                "incompatible_shapes",
            )
        return nn.Linear(source[-1], target[-1])
    strides = _strides(source[2:], target[2:])
    if strides is None or spatial not in (1, 2):
        raise Refused(
            f"{what}: positions {tuple(source[2:])} can't be mapped to {tuple(target[2:])} by a stride",
            "incompatible_shapes",
        )
    if spatial == 2:
        return nn.Conv2d(source[1], target[1], 1, stride=(strides[0], strides[1]))
    return nn.Conv1d(source[1], target[1], 1, stride=strides[0])


def _strides(source: Sequence[int], target: Sequence[int]) -> list[int] | None:
    """Return strides of a 1x1 convolution that maps positions ``source`` to ``target``, if there are any."""
    strides = []
    for before, after in zip(source, target, strict=True):
        stride = -(-before // after)
        if after > before or (before - 1) // stride + 1 != after:
            return None
        strides.append(stride)
    return strides


@frozen
class Quality:
    """How well a fitted bridge does.

    Attributes:
        r2: share of the variance that it explains on the rows that it was fitted to.
        held_out: that of a bridge fitted to the first four fifths of the rows, on the last fifth; None where the
            first are no more than it has inputs.
    """

    r2: float
    held_out: float | None


@frozen(eq=False)
class Fit:
    """An affine map fitted by ridge regression, and the share of variance that it explains."""

    weight: torch.Tensor
    bias: torch.Tensor
    r2: float


def fitted(layer: nn.Module, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> Quality:
    """Fit an adapter to recorded inputs and outputs by ridge regression, in place.

    What the data leave open stays as near to the identity as it can, where the widths agree: the blocks of a
    residual stream add little to it.

    Args:
        layer: a ``Linear`` or a 1x1 convolution with bias.
        inputs: recorded inputs, batch first.
        outputs: recorded outputs.
    """
    x = torch.cat([_rows(layer, tensor, strided=True) for tensor in inputs]).double()
    y = torch.cat([_rows(layer, tensor, strided=False) for tensor in outputs]).double()
    prior = x.new_zeros(x.shape[1], y.shape[1])
    if x.shape[1] == y.shape[1]:
        prior.fill_diagonal_(1.0)
    if x.shape[0] <= x.shape[1]:
        logger.warning(
            "a bridge with %d inputs was fitted to %d rows: its R2 says nothing of other data; give calibration",
            x.shape[1],
            x.shape[0],
        )
    fit = ridge(x, y, prior)
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    weight.data = fit.weight.reshape(weight.shape).to(weight)
    bias.data = fit.bias.to(bias)
    return Quality(fit.r2, _held_out(x, y, prior))


def _held_out(x: torch.Tensor, y: torch.Tensor, prior: torch.Tensor) -> float | None:
    kept = len(x) * 4 // 5
    if kept <= x.shape[1] or len(x) - kept < 2:
        return None
    fit = ridge(x[:kept], y[:kept], prior)
    return _explained(y[kept:], x[kept:] @ fit.weight.T + fit.bias)


def _explained(y: torch.Tensor, predicted: torch.Tensor) -> float:
    """R2 of predictions; 1 where nothing varies."""
    total = float((y - y.mean(0)).square().sum())
    return 1.0 - float((y - predicted).square().sum()) / total if total > 0.0 else 1.0


def _rows(layer: nn.Module, tensor: torch.Tensor, *, strided: bool) -> torch.Tensor:
    """Return one row per position: channels last, positions that a stride passes over left out."""
    if isinstance(layer, nn.Linear):
        return tensor.reshape(-1, tensor.shape[-1])
    if strided and isinstance(layer, nn.Conv2d):
        tensor = tensor[:, :, :: layer.stride[0], :: layer.stride[1]]
    elif strided and isinstance(layer, nn.Conv1d):
        tensor = tensor[:, :, :: layer.stride[0]]
    return tensor.movedim(1, -1).reshape(-1, tensor.shape[1])


def ridge(x: torch.Tensor, y: torch.Tensor, prior: torch.Tensor, penalty: float = 1e-4) -> Fit:
    """Ridge regression with an unpenalised intercept, shrunk towards ``prior`` (Hoerl and Kennard 1970).

    Args:
        x: ``(rows, in)`` float64.
        y: ``(rows, out)`` float64.
        prior: ``(in, out)`` float64.
        penalty: relative to the mean squared column of ``x``.
    """
    x_mean, y_mean = x.mean(0), y.mean(0)
    centred_x, centred_y = x - x_mean, y - y_mean
    gram = centred_x.T @ centred_x
    strength = penalty * gram.diagonal().mean().clamp_min(1e-12)
    step = torch.linalg.solve(
        gram + strength * torch.eye(gram.shape[0], dtype=gram.dtype, device=gram.device),
        centred_x.T @ (centred_y - centred_x @ prior),
    )
    solution = prior + step
    r2 = _explained(centred_y, centred_x @ solution)
    return Fit(solution.T.contiguous(), y_mean - x_mean @ solution, r2)
