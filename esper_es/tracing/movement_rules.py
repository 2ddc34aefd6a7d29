"""Operators that move elements and compute nothing: the same movement, made on the shadows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from esper_es.tracing.operation import Operation
from esper_es.tracing.rule_table import existing, rule
from esper_es.tracing.shadow import (
    NOBODY,
    Block,
    Shadow,
    collapsed,
    constant_over,
    picked,
    relocated,
    reshape_blocks,
    reshaped,
    selected,
    spread,
    with_dim,
    without_dim,
)

aten = torch.ops.aten


@rule(aten.detach, aten.alias, aten.clone, aten._to_copy, aten.contiguous, aten.lift_fresh, moves=True)
@rule(*existing(aten, "lift_fresh_copy", "to", "lift", "_conj", "positive"), moves=True)
def unmoved(op: Operation) -> None:
    op.move(lambda shadow: shadow)


@rule(aten.view, aten._unsafe_view, aten._reshape_alias, *existing(aten, "view_copy", "reshape"), moves=True)
def reshape(op: Operation) -> None:
    """Only the blocks of dimensions that are mixed with channels are materialised."""
    if op.func._overloadname == "dtype":
        op.pin_all(op.input, "is reinterpreted by")
        return
    old, new = tuple(op.input.shape), tuple(op.result.shape)
    if 0 in old:
        op.pin_all(op.input, "is empty in")
        return
    blocks = reshape_blocks(old, new)
    crowded = _crowded(op.shadows(op.input), old, blocks)
    op.move(lambda shadow: None if any(shadow is c for c in crowded) else reshaped(shadow, old, new, blocks))


def _crowded(shadows: Sequence[Shadow], shape: Sequence[int], blocks: Sequence[Block]) -> list[Shadow]:
    """Single channels (a class token's place) whose dimension is joined with one that has channels of its own."""
    single = [shadow for shadow in shadows if [shape[dim] for dim in shadow.dims] == [1]]
    return [
        shadow
        for shadow in single
        for block in blocks
        if shadow.dims[0] in block.old
        and any(set(other.dims) & set(block.old) - set(shadow.dims) for other in shadows)
    ]


@rule(aten.as_strided, aten.as_strided_, moves=True)
def as_strided(op: Operation) -> None:
    """Followed where it moves nothing, as when torch gives a fresh result the strides of a memory format."""
    new = list(zip(op.arg("size"), op.arg("stride"), strict=True))
    old = list(zip(op.layout.shape, op.layout.stride, strict=True))
    starts_alike = op.arg("storage_offset") in (None, op.input.storage_offset())
    sized_alike = tuple(op.arg("size")) == op.layout.shape
    if starts_alike and sized_alike and all(a == b for a, b in zip(new, old, strict=True) if a[0] > 1):
        op.move(lambda shadow: shadow)
    else:
        op.pin_all(op.input, "is restrided by")
        op.carry(op.result, [])


@rule(aten.view_as_real, *existing(aten, "view_as_real_copy"), moves=True)
def view_as_real(op: Operation) -> None:
    """Real and imaginary part of a channel stand in a last dimension of their own."""
    op.move(lambda shadow: shadow)


@rule(aten.view_as_complex, *existing(aten, "view_as_complex_copy"))
def view_as_complex(op: Operation) -> None:
    """Pairs along the last dimension become one number: the two channels of a pair are one, as those are that rotary
    positions turn together without complex numbers."""
    last = op.input.ndim - 1
    kept = []
    for shadow in op.shadows(op.input):
        rest = tuple(dim for dim in shadow.dims if dim != last)
        if len(rest) == len(shadow.dims):
            kept.append(shadow)
        elif rest:
            kept.append(Shadow(rest, collapsed(shadow, rest)))
            op.same(spread(kept[-1].ids, shadow, rest), shadow.ids)
        else:
            op.pin(shadow.ids, "are the two parts of one number in")
    op.carry(op.result, kept)


@rule(aten.permute, moves=True)
def permute(op: Operation) -> None:
    ndim = op.ndim
    target = {source % ndim: dim for dim, source in enumerate(op.arg("dims"))}
    op.move(lambda shadow: relocated(shadow, target))


@rule(aten.transpose, aten.transpose_, moves=True)
def transpose(op: Operation) -> None:
    _swap(op, op.dim("dim0"), op.dim("dim1"))


@rule(aten.t, aten.t_, moves=True)
def t(op: Operation) -> None:
    _swap(op, 0, op.ndim - 1)


def _swap(op: Operation, first: int, second: int) -> None:
    target = {dim: dim for dim in range(op.ndim)} | {first: second, second: first}
    op.move(lambda shadow: relocated(shadow, target))


@rule(aten.unsqueeze, aten.unsqueeze_, moves=True)
def unsqueeze(op: Operation) -> None:
    dim = op.arg("dim") % op.result.ndim
    op.move(lambda shadow: with_dim(shadow, dim))


@rule(aten.squeeze, aten.squeeze_, moves=True)
def squeeze(op: Operation) -> None:
    shape = op.layout.shape
    asked = op.dims() if op.has_arg("dim") else tuple(range(len(shape)))
    gone = sorted((dim for dim in asked if len(shape) and shape[dim] == 1), reverse=True)

    def squeezed(shadow: Shadow) -> Shadow | None:
        if any(dim in gone for dim in shadow.dims):
            return None
        for dim in gone:
            shadow = without_dim(shadow, dim)
        return shadow

    op.move(squeezed)


@rule(aten.expand, moves=True)
def expand(op: Operation) -> None:
    """Repetition of one value is no channel; a single channel spread over many indices is pinned.

    One head of keys is repeated for all heads of queries, as many as there are. Over the first dimension, that of
    batches, repetition says nothing.
    """
    old, new = op.input.shape, op.result.shape
    shift = len(new) - len(old)
    repeated = [dim for dim in range(len(old)) if old[dim] != new[dim + shift]]
    kept = []
    for shadow in op.shadows(op.input):
        spread = constant_over(shadow, repeated)
        if spread is None:
            op.pin(shadow.ids, "its only channel is broadcast in")
        else:
            kept.append(Shadow(tuple(dim + shift for dim in spread.dims), spread.ids))
    lengthened = [dim + shift for dim in repeated] + list(range(shift))
    over = [dim for dim in lengthened if kept and dim > 0 and new[dim] > 1]
    op.carry(op.result, [*kept, *(op.repeated(dim, new[dim]) for dim in over)])


@rule(aten.repeat, moves=True)
def repeat(op: Operation) -> None:
    times: Sequence[int] = op.arg("repeats")
    shift = len(times) - op.input.ndim

    def repeated(shadow: Shadow) -> Shadow:
        dims = tuple(dim + shift for dim in shadow.dims)
        return Shadow(dims, np.tile(shadow.ids, [times[dim] for dim in dims]))

    op.move(repeated)


@rule(aten.slice, moves=True)
def slice_(op: Operation) -> None:
    dim = op.dim()
    part = slice(op.arg("start"), op.arg("end"), op.arg("step"))
    op.move(lambda shadow: picked(shadow, dim, part) if dim in shadow.dims else shadow)


@rule(aten.select, moves=True)
def select(op: Operation) -> None:
    _carry_selected(op, op.result, op.dim(), op.arg("index"))


def _carry_selected(op: Operation, result: torch.Tensor, dim: int, index: int) -> None:
    shadows = op.shadows(op.input)
    picked_out = [shadow.ids.take([index]) for shadow in shadows if shadow.dims == (dim,)]
    op.carry(
        result,
        [_selected(shadow, dim, index) for shadow in shadows if shadow.dims != (dim,)],
        [op.debt(ids, "is picked by its index in") for ids in picked_out],
    )


def _selected(shadow: Shadow, dim: int, index: int) -> Shadow:
    return selected(shadow, dim, index) if dim in shadow.dims else without_dim(shadow, dim)


@rule(aten.unbind, moves=True)
def unbind(op: Operation) -> None:
    """All slices are the same size: their channels are bundled across."""
    dim = op.dim()
    for shadow in op.shadows(op.input):
        if dim in shadow.dims and len(shadow.dims) > 1:
            op.collapse(shadow, [d for d in shadow.dims if d != dim])
    for index, result in enumerate(op.result):
        _carry_selected(op, result, dim, index)


@rule(aten.split, aten.unsafe_split, aten.split_with_sizes, aten.unsafe_split_with_sizes, moves=True)
def split(op: Operation) -> None:
    """Equal parts (a chunk) grow and shrink together: index i of each is bundled with index i of the others.

    Parts cut by one size that leave a shorter rest have no such law, their channels are pinned. Where each part has a
    size of its own, that two are equal says nothing.
    """
    dim = op.dim()
    sizes = [part.shape[dim] for part in op.result]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    even = op.has_arg("split_size") and all(size == sizes[0] for size in sizes)
    for shadow in op.shadows(op.input):
        if dim in shadow.dims and len(sizes) > 1:
            if even:
                first = picked(shadow, dim, slice(0, sizes[0])).ids
                for start in starts[1:]:
                    op.bundle(first, picked(shadow, dim, slice(start, start + sizes[0])).ids)
            elif op.has_arg("split_size"):
                op.pin(shadow.ids, "is cut into uneven parts by")
    for part, start, size in zip(op.result, starts, sizes, strict=True):
        window = slice(start, start + size)
        op.carry(
            part,
            [picked(s, dim, window) if dim in s.dims else s for s in op.shadows(op.input)],
        )


@rule(aten.flip, moves=True)
def flip(op: Operation) -> None:
    dims = op.dims("dims")

    def flipped(shadow: Shadow) -> Shadow:
        axes = tuple(axis for axis, dim in enumerate(shadow.dims) if dim in dims)
        return Shadow(shadow.dims, np.flip(shadow.ids, axes))

    op.move(flipped)


@rule(aten.roll, moves=True)
def roll(op: Operation) -> None:
    shifts = op.arg("shifts")
    shifts = [shifts] if isinstance(shifts, int) else list(shifts)
    if not op.arg("dims"):
        op.pin_all(op.input, "is flattened by")
        return
    by = dict(zip(op.dims("dims"), shifts, strict=True))

    def rolled(shadow: Shadow) -> Shadow:
        axes = [axis for axis, dim in enumerate(shadow.dims) if dim in by]
        return Shadow(shadow.dims, np.roll(shadow.ids, [by[shadow.dims[a]] for a in axes], axes))

    op.move(rolled)


@rule(aten.pixel_shuffle)
def pixel_shuffle(op: Operation) -> None:
    """Blocks of r * r channels become one channel of r times the resolution (Shi et al., 2016)."""
    dim = op.input.ndim - 3
    channels = op.result.shape[dim]
    kept = []
    for shadow in op.shadows(op.input):
        if shadow.dims == (dim,):
            parted = Shadow((0, 1), shadow.ids.reshape(channels, -1))
            kept.append(Shadow((dim,), op.collapse(parted, [0])))
        elif max(shadow.dims) < dim:
            kept.append(shadow)
        else:
            op.pin(shadow.ids, "lies along a spatial dimension of")
    op.carry(op.result, kept)


@rule(aten.constant_pad_nd)
def constant_pad(op: Operation) -> None:
    """Padding between channels holds none; negative padding cuts channels off."""
    amounts: list[int] = op.arg("pad")
    pads = {op.ndim - 1 - i: (amounts[2 * i], amounts[2 * i + 1]) for i in range(len(amounts) // 2)}

    def padded(shadow: Shadow) -> Shadow:
        for dim in set(pads).intersection(shadow.dims):
            before, after = pads[dim]
            size = shadow.ids.shape[shadow.axis(dim)]
            shadow = picked(shadow, dim, slice(max(0, -before), size - max(0, -after)))
            widths = [(max(0, before), max(0, after)) if d == dim else (0, 0) for d in shadow.dims]
            shadow = Shadow(shadow.dims, np.pad(shadow.ids, widths, constant_values=NOBODY))
        return shadow

    op.move(padded)


@rule(aten.tril, aten.triu)
def triangle(op: Operation) -> None:
    """Cuts by position: channels along either of the last two dimensions must keep their places."""
    kept = []
    for shadow in op.shadows(op.input):
        if max(shadow.dims) >= op.input.ndim - 2:
            op.pin(shadow.ids, "is cut by position in")
        else:
            kept.append(shadow)
    op.carry(op.result, kept)
