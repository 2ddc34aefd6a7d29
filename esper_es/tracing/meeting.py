"""Channels that meet in one operator: broadcasting and contraction as one law over labelled dimensions.

Every dimension of every operand gets a label, as in an einsum. Dimensions with the same label run together,
element by element or summed over. Two shadows on the same labels then hold the same channels. Two that share
only some of their labels are bundled along the others: the heads of attention scores with the rows of the
values, the channels of a grouped convolution with its filters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch

from esper_es.tracing.carry import Origin
from esper_es.tracing.operation import Operation
from esper_es.tracing.shadow import Shadow, relocated

Label = int | str


class Operand(NamedTuple):
    """One tensor with a label for each dimension; ``repeats`` marks those that hold one value repeated."""

    labels: tuple[Label, ...]
    sizes: tuple[int, ...]
    repeats: tuple[bool, ...]
    shadows: tuple[Shadow, ...]
    origin: Origin


class _Placed(NamedTuple):
    """A shadow in label space, with the operand it comes from."""

    operand: int
    labels: tuple[Label, ...]
    shadow: Shadow

    def axes(self, labels: Iterable[Label]) -> list[int]:
        return [self.shadow.dims[self.labels.index(label)] for label in labels]


def operand(op: Operation, tensor: torch.Tensor, labels: Sequence[Label]) -> Operand:
    """An operand as it stands. An expanded dimension (stride 0) holds one value repeated."""
    strides = tensor.stride() if tensor.layout is torch.strided else (1,) * tensor.ndim
    return Operand(
        tuple(labels),
        tuple(tensor.shape),
        tuple(stride == 0 and size > 1 for size, stride in zip(tensor.shape, strides, strict=True)),
        op.shadows(tensor),
        op.origin(tensor),
    )


def meet(op: Operation, operands: Sequence[Operand], result: Sequence[Label]) -> list[Shadow]:
    """Relate the channels of all operands and return the shadows of the result, whose labels are ``result``.

    Labels absent from ``result`` are summed over. Channels are pinned where they meet a dimension of full
    size without channels, where a single channel is broadcast against many, and on labels that nothing else
    has and the result loses (the kernel and spatial dimensions of a convolution).
    """
    placed = [
        _Placed(number, tuple(o.labels[dim] for dim in shadow.dims), shadow)
        for number, o in enumerate(operands)
        for shadow in o.shadows
    ]
    if not placed:
        return []
    placed = _without_broadcast(op, operands, placed)
    _meet_bare_dimensions(op, operands, placed, set(result))
    placed = _without_private(op, operands, placed, set(result))
    for position, left in enumerate(placed):
        for right in placed[position + 1 :]:
            if left.operand != right.operand:
                _relate(op, left, right)
    return _surviving(op, placed, result)


def _without_broadcast(op: Operation, operands: Sequence[Operand], placed: list[_Placed]) -> list[_Placed]:
    extent: dict[Label, int] = {}
    for o in operands:
        for label, size in zip(o.labels, o.sizes, strict=True):
            extent[label] = max(size, extent.get(label, 1))
    kept = []
    for each in placed:
        o = operands[each.operand]
        if any(o.sizes[dim] == 1 < extent[o.labels[dim]] for dim in each.shadow.dims):
            op.pin(each.shadow.ids, "its only channel is broadcast in")
        else:
            kept.append(each)
    return kept


def _meet_bare_dimensions(
    op: Operation, operands: Sequence[Operand], placed: Sequence[_Placed], result: set[Label]
) -> None:
    """A dimension of full size without channels fixes the channels it meets.

    Channels that also vary along other labels stay free there (a rotary table fixes the rows inside a head,
    not the number of heads): they are bundled along the fixed labels only.
    """
    for number, o in enumerate(operands):
        if o.origin is Origin.UNIFORM:
            continue
        known = {label for each in placed if each.operand == number for label in each.labels}
        bare = {
            label
            for label, size, repeats in zip(o.labels, o.sizes, o.repeats, strict=True)
            if label not in known and ((size > 1 and not repeats) or label not in result)
        }
        for each in placed:
            if each.operand == number or not bare.intersection(each.labels):
                continue
            free = [label for label in each.labels if label not in bare]
            if free:
                op.collapse(each.shadow, each.axes(free))
            elif o.origin is Origin.INPUT:
                op.pin(each.shadow.ids, "meets the model input in")
            else:
                op.pin(each.shadow.ids, "meets a tensor without channels in")


def _without_private(
    op: Operation, operands: Sequence[Operand], placed: list[_Placed], result: set[Label]
) -> list[_Placed]:
    shared = {
        label for o in operands for label in o.labels if sum(label in other.labels for other in operands) > 1
    }
    kept = []
    for each in placed:
        if all(label not in shared and label not in result for label in each.labels):
            op.pin(each.shadow.ids, "lies along a kernel or spatial dimension of")
        else:
            kept.append(each)
    return kept


def _relate(op: Operation, left: _Placed, right: _Placed) -> None:
    shared = [label for label in left.labels if label in right.labels]
    if not shared:
        return
    if len(shared) == len(left.labels) == len(right.labels):
        order = [right.labels.index(label) for label in left.labels]
        ids = right.shadow.ids
        op.same(left.shadow.ids, ids if len(order) == 1 else ids.transpose(order))
    else:
        op.bundle(
            op.collapse(left.shadow, left.axes(shared)),
            op.collapse(right.shadow, right.axes(shared)),
        )


def _surviving(op: Operation, placed: Sequence[_Placed], result: Sequence[Label]) -> list[Shadow]:
    """One shadow for each set of labels: where shadows of two operands met, the wider one stands for both."""
    position = {label: dim for dim, label in enumerate(result)}
    kept: list[tuple[int, Shadow]] = []
    for each in placed:
        shadow = _in_result(op, each, position)
        if shadow is None or any(n != each.operand and set(shadow.dims) <= set(s.dims) for n, s in kept):
            continue
        kept = [(n, s) for n, s in kept if n == each.operand or not set(s.dims) < set(shadow.dims)]
        kept.append((each.operand, shadow))
    return [shadow for _, shadow in kept]


def _in_result(op: Operation, each: _Placed, position: Mapping[Label, int]) -> Shadow | None:
    """The shadow along the dimensions of the result; None if all its labels were summed over."""
    labels = [label for label in each.labels if label in position]
    if not labels:
        op.read(each.shadow.ids)
        return None
    whole = len(labels) == len(each.labels)
    ids = each.shadow.ids if whole else op.collapse(each.shadow, each.axes(labels))
    if len(labels) == 1:
        return Shadow((position[labels[0]],), ids)
    axes = tuple(range(len(labels)))
    return relocated(Shadow(axes, ids), {axis: position[label] for axis, label in enumerate(labels)})
