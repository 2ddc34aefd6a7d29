"""Pooling, resampling and border padding: they work on trailing dimensions and leave channels alone."""

from __future__ import annotations

from collections.abc import Callable

import torch

from esper_es.tracing.operation import Operation
from esper_es.tracing.rule_table import Follow, existing, rule

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
    """The rule of an operator on the last ``count`` dimensions: channels that lie there are pinned."""

    def follow(op: Operation) -> None:
        first = op.input.ndim - count
        kept = []
        for shadow in op.shadows(op.input):
            if any(dim >= first for dim in shadow.dims):
                op.pin(shadow.ids, "lies along a spatial dimension of")
            else:
                kept.append(shadow)
        for result in op.results:
            op.carry(result, kept)

    return follow


def _register(count: int) -> Callable[[Operation], None]:
    names = [*(name.format(n=count) for name in (*_POOLING, *_BORDERS)), *_RESAMPLING[count]]
    return rule(*existing(aten, *names))(spatial(count))


for _count in (1, 2, 3):
    _register(_count)
