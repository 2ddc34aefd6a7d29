"""Operators that put tensors side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from esper_es.tracing.meeting import Label, meet, operand
from esper_es.tracing.operation import Operation
from esper_es.tracing.rule_table import rule
from esper_es.tracing.shadow import NOBODY, Shadow, constant_along
from esper_es.tracing.union_find import Ids

aten = torch.ops.aten


@rule(aten.cat, moves=True)
def cat(op: Operation) -> None:
    """Channels along the joined dimension follow one another; along every other dimension they meet."""
    parts: list[torch.Tensor] = [tensor for tensor in op.arg("tensors") if tensor.numel()]
    if not parts:
        return
    dim = op.arg("dim") % parts[0].ndim
    ndim = parts[0].ndim
    if _are_blocks(op, parts, dim):
        op.abreast([_sliced(op.shadows(part)[0], dim) for part in parts])
        op.carry(op.result, _followed(op, parts, dim))
        return
    labels: list[Label] = list(range(ndim))
    own: list[Label] = [f"part {number}" for number in range(len(parts))]
    operands = [
        operand(op, part, [*labels[:dim], own[number], *labels[dim + 1 :]])
        for number, part in enumerate(parts)
    ]
    met = meet(op, operands, [*labels, *own])
    across = [shadow for shadow in met if max(shadow.dims) < ndim]
    along = _followed(op, parts, dim)
    op.carry(op.result, [*(s for s in across if not _covered(s, along)), *along])


def _are_blocks(op: Operation, parts: Sequence[torch.Tensor], dim: int) -> bool:
    """Whether every part holds channels along the joined dimension and along others, the same ones, at once: heads."""
    covered = {tuple(shadow.dims for shadow in op.shadows(part)) for part in parts}
    alone = len(covered) == 1 and len(parts) > 1
    return alone and all(len(dims) == 1 and dim in dims[0] and len(dims[0]) > 1 for dims in covered)


def _sliced(shadow: Shadow, dim: int) -> Ids:
    """The ids of a shadow as ``(those of one slice, slices along a dimension)``."""
    ids = np.moveaxis(shadow.ids, shadow.axis(dim), -1)
    return ids.reshape(-1, ids.shape[-1])


def _followed(op: Operation, parts: Sequence[torch.Tensor], dim: int) -> list[Shadow]:
    """The shadow along the joined dimension; untracked parts hold nobody there."""
    pieces = [[s for s in op.shadows(part) if dim in s.dims] for part in parts]
    if not any(pieces):
        return []
    if any(len(found) > 1 for found in pieces):
        for found in pieces:
            for shadow in found:
                op.pin(shadow.ids, "lies twice along the dimension joined by")
        return []
    dims = tuple(sorted({d for found in pieces for shadow in found for d in shadow.dims}))
    ids = []
    for part, found in zip(parts, pieces, strict=True):
        shape = [part.shape[d] for d in dims]
        ids.append(np.broadcast_to(_aligned(found[0], dims), shape) if found else np.full(shape, NOBODY))
    return [Shadow(dims, np.concatenate(ids, axis=dims.index(dim)))]


def _aligned(shadow: Shadow, dims: Sequence[int]) -> Ids:
    sizes = dict(zip(shadow.dims, shadow.ids.shape, strict=True))
    return shadow.ids.reshape([sizes.get(d, 1) for d in dims])


def _covered(shadow: Shadow, along: Sequence[Shadow]) -> bool:
    return any(set(shadow.dims) <= set(other.dims) for other in along)


@rule(aten.stack, moves=True)
def stack(op: Operation) -> None:
    """The parts have equal shapes: index i of each is bundled with index i of the others."""
    parts: list[torch.Tensor] = op.arg("tensors")
    dim = op.arg("dim") % op.result.ndim
    carried = [op.shadows(part) for part in parts]
    alike = all([s.dims for s in shadows] == [s.dims for s in carried[0]] for shadows in carried)
    if not alike:
        labels: list[Label] = list(range(parts[0].ndim))
        met = meet(op, [operand(op, part, labels) for part in parts], labels)
        op.carry(op.result, [Shadow(tuple(d + (d >= dim) for d in s.dims), s.ids) for s in met])
        return
    op.carry(op.result, [_stacked(op, layers, dim) for layers in zip(*carried, strict=True)])


def _stacked(op: Operation, layers: Sequence[Shadow], dim: int) -> Shadow:
    shifted = tuple(d + (d >= dim) for d in layers[0].dims)
    ids = np.stack([layer.ids for layer in layers])
    if len(layers) == 1 or constant_along(ids, 0):
        return Shadow(shifted, layers[0].ids)
    for layer in layers[1:]:
        op.bundle(layers[0].ids, layer.ids)
    dims = tuple(sorted((*shifted, dim)))
    return Shadow(dims, np.moveaxis(ids, 0, dims.index(dim)))


@rule(aten._pack_padded_sequence)
def pack(op: Operation) -> None:
    """The steps of all sequences follow one another; what stands behind them stays."""
    kept = []
    for shadow in op.shadows(op.input):
        if min(shadow.dims) < 2:
            op.pin(shadow.ids, "is packed by")
        else:
            kept.append(Shadow(tuple(dim - 1 for dim in shadow.dims), shadow.ids))
    op.carry(op.results[0], kept)
