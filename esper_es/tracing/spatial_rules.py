"""Pooling, resampling, border padding, patches, Fourier transforms: they work on some dimensions and leave channels
alone."""

from __future__ import annotations

from collections.abc import Callable, Collection
from math import prod

import numpy as np
import torch

from esper_es.tracing.meeting import meet, operand
from esper_es.tracing.operation import Operation
from esper_es.tracing.rule_table import Follow, existing, rule
from esper_es.tracing.shadow import Shadow, picked

aten = torch.ops.aten

_POOLING = ("avg_pool{n}d", "_adaptive_avg_pool{n}d", "adaptive_max_pool{n}d", "max_pool{n}d_with_indices")
_BORDERS = ("reflection_pad{n}d", "replication_pad{n}d")
_RESAMPLING = {
    1: ("upsample_nearest1d", "_upsample_nearest_exact1d", "upsample_linear1d"),
    2: (
        "upsample_nearest2d",
        "_upsample_nearest_exact2d",
        "upsample_bilinear2d",
        "_upsample_bilinear2d_aa",
        "upsample_bicubic2d",
        "_upsample_bicubic2d_aa",
    ),
    3: ("upsample_nearest3d", "_upsample_nearest_exact3d", "upsample_trilinear3d"),
}


def spatial(count: int) -> Follow:
    """The rule of an operator on the last ``count`` dimensions; see ``maps``."""

    def follow(op: Operation) -> None:
        still = _still(op, count)
        kept = maps(op, op.input, count, still)
        op.carry(op.results[0], kept)
        for places in op.results[1:]:
            op.carry(places, [shadow for shadow in kept if not still.intersection(shadow.dims)])

    return follow


def _still(op: Operation, count: int) -> frozenset[int]:
    """Those of the last ``count`` dimensions along which a window of one element steps from each to the next."""
    if not op.has_arg("kernel_size"):
        return frozenset()
    first = op.input.ndim - count
    steps = [_each(op, name, count) for name in ("kernel_size", "stride", "dilation") if op.has_arg(name)]
    padding = _each(op, "padding", count)
    return frozenset(
        first + i for i in range(count) if padding[i] == 0 and all(step[i] == 1 for step in steps)
    )


def _each(op: Operation, name: str, count: int) -> list[int]:
    """An argument of a window for each of its dimensions; steps that are not given are as long as the window."""
    value = op.arg(name) or (op.arg("kernel_size") if name == "stride" else [0])
    listed = [value] if isinstance(value, int) else list(value)
    return listed * count if len(listed) == 1 else listed


def maps(
    op: Operation, tensor: torch.Tensor, count: int, still: Collection[int] = frozenset()
) -> list[Shadow]:
    """What varies in front of the last ``count`` dimensions, or along those that stand ``still``.

    A channel whose map was made place by place (a linear layer's output, reshaped) comes and goes with all of its
    map; channels that lie along those dimensions only are pinned.
    """
    first = tensor.ndim - count
    kept = []
    for shadow in op.shadows(tensor):
        outside = tuple(dim for dim in shadow.dims if dim < first or dim in still)
        if len(outside) == len(shadow.dims):
            kept.append(shadow)
        elif outside:
            kept.append(Shadow(outside, op.collapse(shadow, outside)))
        else:
            op.pin(shadow.ids, "lies along a spatial dimension of")
    return kept


def _register(count: int) -> Callable[[Operation], None]:
    names = [*(name.format(n=count) for name in (*_POOLING, *_BORDERS)), *_RESAMPLING[count]]
    return rule(*existing(aten, *names))(spatial(count))


for _count in (1, 2, 3):
    _register(_count)


@rule(aten._fft_r2c, aten._fft_c2r, aten._fft_c2c)
def fourier(op: Operation) -> None:
    """Mixes the elements along the transformed dimensions; what lies there must keep its place and its number."""
    dims = op.dims()
    kept = []
    for shadow in op.shadows(op.input):
        if set(shadow.dims) & set(dims):
            op.pin(shadow.ids, "is transformed by")
        else:
            kept.append(shadow)
    op.carry(op.result, kept)


@rule(aten.im2col, moves=True)
def im2col(op: Operation) -> None:
    """Every channel stands once for each place of the window, its places next to each other."""
    _repeated(op, prod(op.arg("kernel_size")))


@rule(*existing(aten, "pixel_unshuffle"), moves=True)
def pixel_unshuffle(op: Operation) -> None:
    """Every channel becomes one for each place of a block of r * r, next to each other."""
    _repeated(op, op.arg("downscale_factor") ** 2)


def _repeated(op: Operation, places: int) -> None:
    channels = op.input.ndim - 3
    kept = []
    for shadow in maps(op, op.input, 2):
        if channels in shadow.dims:
            kept.append(Shadow(shadow.dims, np.repeat(shadow.ids, places, shadow.axis(channels))))
        else:
            kept.append(shadow)
    op.carry(op.result, kept)


@rule(*existing(aten, "channel_shuffle", "native_channel_shuffle"), moves=True)
def channel_shuffle(op: Operation) -> None:
    """Channels of several groups are interleaved (Zhang et al., 2018)."""
    groups = op.arg("groups")

    def shuffled(shadow: Shadow) -> Shadow:
        if 1 not in shadow.dims:
            return shadow
        size = shadow.ids.shape[shadow.axis(1)]
        return picked(shadow, 1, np.arange(size).reshape(groups, -1).T.ravel())

    op.move(shuffled)


@rule(aten.grid_sampler_2d, aten.grid_sampler_3d)
@rule(*existing(aten, "cudnn_grid_sampler"))
def grid_sample(op: Operation) -> None:
    """Every channel is sampled at the same places."""
    x, grid = op.args[:2]
    op.pin_all(grid, "says where to sample in")
    op.carry(op.result, maps(op, x, x.ndim - 2))


@rule(*existing(aten, "max_unpool2d", "max_unpool3d"))
def max_unpool(op: Operation) -> None:
    """Every channel goes back to the places of its own maxima."""
    x, indices = op.args[:2]
    space = [f"space {i}" for i in range(x.ndim - 2)]
    labels = ["batch", "channels", *space]
    op.carry(op.result, meet(op, [operand(op, x, labels), operand(op, indices, labels)], labels[:2]))


@rule(aten.col2im)
def col2im(op: Operation) -> None:
    """What was taken apart by ``im2col``: the places of a channel's window are one channel."""
    channels = op.input.ndim - 2
    size = op.input.shape[channels]
    places = prod(op.arg("kernel_size"))
    kept = []
    for shadow in maps(op, op.input, 1):
        if channels in shadow.dims:
            first = picked(shadow, channels, np.arange(0, size, places))
            every = np.repeat(first.ids, places, shadow.axis(channels))
            op.same(every, shadow.ids)
            kept.append(first)
        else:
            kept.append(shadow)
    op.carry(op.result, kept)
