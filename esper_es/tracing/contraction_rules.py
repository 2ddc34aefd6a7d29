"""Matrix products and convolutions: what is summed over on both sides is the same channel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from esper_es.tracing.carry import Origin
from esper_es.tracing.meeting import Label, Operand, meet, operand
from esper_es.tracing.operation import Operation
from esper_es.tracing.rule_table import existing, rule
from esper_es.tracing.shadow import Shadow, joined_dims, relocated, split_dim

aten = torch.ops.aten


@rule(aten.linear)
def linear(op: Operation) -> None:
    x, weight, bias = op.arg("input"), op.arg("weight"), op.arg("bias")
    rows = range(x.ndim - 1)
    made = ["out"] * (weight.ndim - 1)
    operands = [operand(op, x, [*rows, "in"]), operand(op, weight, [*made, "in"])]
    added = None if bias is None else operand(op, bias, ["out"] * bias.ndim)
    op.carry(op.result, contract(op, operands, [*rows, *made], added))


@rule(aten.mm)
def mm(op: Operation) -> None:
    left, right = op.args
    op.carry(op.result, contract(op, [operand(op, left, "mk"), operand(op, right, "kn")], "mn"))


@rule(aten.bmm)
def bmm(op: Operation) -> None:
    left, right = op.args
    op.carry(op.result, contract(op, [operand(op, left, "bmk"), operand(op, right, "bkn")], "bmn"))


@rule(*existing(aten, "_grouped_mm"))
def grouped_mm(op: Operation) -> None:
    """Rows times the matrix of their expert, one of a stack: the experts stay as many as they are, what is summed
    over and what stays is alike in all of them."""
    rows, experts = op.arg("self"), op.arg("mat2")
    if (rows.ndim, experts.ndim) != (2, 3) or op.arg("bias") is not None:
        for tensor in op.tensors:
            op.pin_all(tensor, "is multiplied in another arrangement by")
        return
    stack = operand(op, experts, "ekn")
    op.carry(op.result, contract(op, [operand(op, rows, "mk"), _any_expert(op, stack)], "mn"))


def _any_expert(op: Operation, stack: Operand) -> Operand:
    """One matrix for all of a stack."""
    alike = []
    for shadow in stack.shadows:
        if shadow.dims[0] > 0:
            alike.append(relocated(shadow, {1: 0, 2: 1}))
        else:
            op.pin(shadow.ids, "is chosen by its index in")
    return Operand(stack.labels[1:], stack.sizes[1:], stack.repeats[1:], tuple(alike), stack.origin)


@rule(aten.addmm, *existing(aten, "_sparse_addmm"))
def addmm(op: Operation) -> None:
    bias, left, right = op.args[:3]
    operands = [operand(op, left, "mk"), operand(op, right, "kn")]
    op.carry(op.result, contract(op, operands, "mn", operand(op, bias, "mn"[2 - bias.ndim :])))


@rule(aten.baddbmm)
def baddbmm(op: Operation) -> None:
    """What is added meets the product, from which the channels that were summed over are gone: position biases fix the
    number of heads, and nothing inside of these."""
    bias, left, right = op.args[:3]
    product = contract(op, [operand(op, left, "bmk"), operand(op, right, "bkn")], "bmn")
    sizes = tuple(op.result.shape)
    made = Operand(tuple("bmn"), sizes, (False,) * len(sizes), tuple(product), Origin.ACTIVATION)
    added = operand(op, bias, "bmn"[3 - bias.ndim :])
    op.carry(op.result, contract(op, [made], "bmn", added))


@rule(*existing(aten, "_trilinear"))
def trilinear(op: Operation) -> None:
    """A product of three tensors, each broadcast along some dimensions, summed over some; what ``nn.Bilinear`` runs."""
    tensors, expanded = op.args[:3], op.args[3:6]
    ndim = tensors[0].ndim + len(expanded[0])
    operands = [
        operand(op, tensor, [dim for dim in range(ndim) if dim not in missing])
        for tensor, missing in zip(tensors, expanded, strict=True)
    ]
    op.carry(op.result, contract(op, operands, [dim for dim in range(ndim) if dim not in op.arg("sumdim")]))


@rule(*existing(aten, "_cdist_forward", "_euclidean_dist"))
def distances(op: Operation) -> None:
    """Distances of all rows of one tensor from all rows of another: all channels of a row are mixed."""
    left, right = op.args[:2]
    batch = [f"batch {i}" for i in range(op.result.ndim - 2)]
    operands = [
        operand(op, tensor, [*batch[len(batch) + 2 - tensor.ndim :], row, "channel"])
        for tensor, row in ((left, "left"), (right, "right"))
    ]
    for each in operands:
        for shadow in each.shadows:
            if shadow.dims == (len(each.labels) - 1,):
                op.reduce(shadow.ids)
    op.carry(op.result, contract(op, operands, [*batch, "left", "right"]))


@rule(aten.convolution)
def convolution(op: Operation) -> None:
    """Grouped or not, transposed or not, over any number of spatial dimensions."""
    x, weight, groups = op.arg("input"), op.arg("weight"), op.arg("groups")
    space = [f"space {i}" for i in range(x.ndim - 2)]
    kernel = [f"kernel {i}" for i in range(x.ndim - 2)]
    bias = None if op.arg("bias") is None else untabled(op, op.arg("bias"), ["out"])
    if groups > 1:
        op.carry(op.result, _grouped(op, groups, space, kernel, bias))
    else:
        filters = ("in", "out") if op.arg("transposed") else ("out", "in")
        operands = [untabled(op, x, ["batch", "in", *space]), untabled(op, weight, [*filters, *kernel])]
        op.carry(op.result, contract(op, operands, ["batch", "out", *space[: _pointwise(op)]], bias))


def _pointwise(op: Operation) -> int:
    """How many spatial dimensions, from the first on, keep their places: each is as far as its own filter reaches."""
    spatial = op.input.ndim - 2
    alone = 0
    for dim in range(spatial):
        kept = (
            op.arg("weight").shape[2 + dim],
            *(_of(op.arg(n), dim) for n in ("stride", "padding", "output_padding")),
        )
        if kept != (1, 1, 0, 0):
            break
        alone += 1
    return alone


def _of(values: Sequence[int], dim: int) -> int:
    return values[dim] if len(values) > 1 else values[0]


def _grouped(
    op: Operation, groups: int, space: Sequence[Label], kernel: Sequence[Label], bias: Operand | None
) -> list[Shadow]:
    """A conv group is a block of input channels with its block of filters: they come and go together.

    How many channels one group has is fixed, so the weight's other dimension is pinned, and all of it is where
    the input has no channels that could come and go. With one channel and one filter per group (depthwise)
    input and output are the same channel. A filter in a buffer that is the same for all channels goes with them.
    """
    weight, transposed = op.arg("weight"), op.arg("transposed")
    inner = 1
    repeated = _is_repeated(op, weight, groups)
    w = (operand if repeated else untabled)(op, weight, ["out", "in", *kernel])
    for shadow in w.shadows:
        if shadow.dims == (inner,):
            op.pin(shadow.ids, "counts the channels of one group of")
            op.play(shadow.ids, "producer" if transposed else "consumer")
        elif repeated and shadow.dims == (0,):
            op.play(shadow.ids, "repeated")
    filters = ["group", "in", "out"] if transposed else ["group", "out", "in"]
    x = untabled(op, op.arg("input"), ["batch", "in", *space])
    per_group = [shadow for shadow in w.shadows if shadow.dims != (inner,)]
    if not any(1 in shadow.dims for shadow in x.shadows):
        for shadow in per_group:
            op.pin(shadow.ids, "its groups are those of a tensor without channels in")
    result = contract(
        op,
        [
            _split(x, 1, groups, ["batch", "group", "in", *space], x.shadows),
            _split(w, 0, groups, [*filters, *kernel], per_group),
        ],
        ["batch", "group", "out"],
        None if bias is None else _split(bias, 0, groups, ["group", "out"], bias.shadows),
    )
    out_channels: int = op.result.shape[1]
    return [joined_dims(shadow, 1, (groups, out_channels // groups)) for shadow in result]


def _is_repeated(op: Operation, weight: torch.Tensor, groups: int) -> bool:
    """Whether a buffer holds one filter for each channel, the same for all."""
    alone = weight.shape[1] == 1 and weight.shape[0] == groups
    return alone and op.origin(weight) is Origin.TABLE and bool((weight == weight[:1]).all())


def _split(
    whole: Operand, dim: int, parts: int, labels: Sequence[Label], shadows: Iterable[Shadow]
) -> Operand:
    size = whole.sizes[dim]
    return Operand(
        tuple(labels),
        (*whole.sizes[:dim], parts, size // parts, *whole.sizes[dim + 1 :]),
        (*whole.repeats[: dim + 1], *whole.repeats[dim:]),
        tuple(split_dim(shadow, dim, parts) for shadow in shadows),
        whole.origin,
    )


def untabled(op: Operation, tensor: torch.Tensor, labels: Sequence[Label]) -> Operand:
    """An operand; one in a buffer as something of which nothing is known."""
    found = operand(op, tensor, labels)
    return found._replace(shadows=(), origin=Origin.CONSTANT) if found.origin is Origin.TABLE else found


def contract(
    op: Operation, operands: Sequence[Operand], result: Sequence[Label], bias: Operand | None = None
) -> list[Shadow]:
    """Let the operands meet; weights among them consume what is summed over and produce what stays.

    Of weights alone, such as a network that makes biases from constants, the last is the one that consumes. What is
    added to the product makes its channels too.
    """
    alone = all(o.origin is Origin.WEIGHT for o in operands)
    for o in operands[-1:] if alone else operands:
        if o.origin is Origin.WEIGHT:
            for shadow in o.shadows:
                produces = any(o.labels[dim] in result for dim in shadow.dims)
                if not (alone and produces):
                    op.play(shadow.ids, "producer" if produces else "consumer")
    if bias is None:
        return meet(op, operands, result)
    if bias.origin is Origin.WEIGHT:
        for shadow in bias.shadows:
            op.play(shadow.ids, "producer")
    return meet(op, [*operands, bias], result)
