"""Channels that meet in one operator: broadcasting and contraction as one law over labelled dimensions.

Every dimension of every operand gets a label, as in an einsum. Dimensions with the same label run together,
element by element or summed over. Two shadows on the same labels then hold the same channels. Two that share
only some of their labels are bundled along the others: the heads of attention scores with the rows of the
values, the channels of a grouped convolution with its filters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from math import prod
from typing import NamedTuple

import numpy as np
import torch

from esper_es.tracing.carry import Origin
from esper_es.tracing.meeting_events import (
    Bundled,
    Collapsed,
    Event,
    Meeting,
    Met,
    Outcome,
    Pinned,
    Read,
    Same,
    Shared,
)
from esper_es.tracing.operation import Operation
from esper_es.tracing.shadow import Shadow, constant_over

Label = int | str


class Operand(NamedTuple):
    """One tensor with a label for each dimension; ``repeats`` marks those that hold one value repeated."""

    labels: tuple[Label, ...]
    sizes: tuple[int, ...]
    repeats: tuple[bool, ...]
    shadows: tuple[Shadow, ...]
    origin: Origin


def operand(op: Operation, tensor: torch.Tensor, labels: Sequence[Label]) -> Operand:
    """An operand as it stands. An expanded dimension (stride 0) holds one value repeated."""
    shape = tuple(tensor.shape)
    strides = tensor.stride() if tensor.layout is torch.strided else (1,) * len(shape)
    repeats = (False,) * len(shape)
    if 0 in strides:
        repeats = tuple(stride == 0 and size > 1 for size, stride in zip(shape, strides, strict=True))
    return Operand(tuple(labels), shape, repeats, op.shadows(tensor), op.origin(tensor))


def meet(op: Operation, operands: Sequence[Operand], result: Sequence[Label]) -> list[Shadow]:
    """Relate the channels of all operands and return the shadows of the result, whose labels are ``result``.

    Labels absent from ``result`` are summed over. Channels are pinned where they meet a dimension of full
    size without channels, where a single channel is broadcast against many, and on labels that nothing else
    has and the result loses (the kernel and spatial dimensions of a convolution).
    """
    if any(1 in o.sizes and any(len(shadow.dims) > 1 for shadow in o.shadows) for o in operands):
        extent = _extents(operands)
        operands = [_broadcast(o, extent) for o in operands]
    shadows = [shadow for o in operands for shadow in o.shadows]
    if not shadows:
        return []
    meeting = _meeting(tuple([_form(op, o) for o in operands]), tuple(result))
    for event in meeting.events:
        event.happen(op, shadows)
    return [outcome.shadow(op, shadows) for outcome in meeting.outcomes]


def _extents(operands: Iterable[Operand | _Form]) -> dict[Label, int]:
    """How long the operands run together along each label."""
    extent: dict[Label, int] = {}
    for o in operands:
        for label, size in zip(o.labels, o.sizes, strict=True):
            extent[label] = max(size, extent.get(label, 1))
    return extent


def _broadcast(o: Operand, extent: Mapping[Label, int]) -> Operand:
    """An operand whose shadows leave out dimensions of size 1 that run along more; not one that covers no other."""
    repeated = [
        dim for dim, (label, size) in enumerate(zip(o.labels, o.sizes, strict=True)) if size < extent[label]
    ]
    if not repeated or all(len(shadow.dims) == 1 for shadow in o.shadows):
        return o
    return o._replace(shadows=tuple([constant_over(shadow, repeated) or shadow for shadow in o.shadows]))


class _Form(NamedTuple):
    """All of an operand that decides what happens in a meeting: everything but the channels themselves."""

    labels: tuple[Label, ...]
    sizes: tuple[int, ...]
    repeats: tuple[bool, ...]
    shadows: tuple[tuple[tuple[int, ...], bool, bytes], ...]
    origin: Origin


def _form(op: Operation, operand: Operand) -> _Form:
    dims = [shadow.dims for shadow in operand.shadows]
    layouts = (
        [_layout(shadow) if dims.count(shadow.dims) > 1 else b"" for shadow in operand.shadows]
        if len(dims) > 1
        else [b""] * len(dims)
    )
    return _Form(
        operand.labels,
        operand.sizes,
        operand.repeats,
        tuple(
            [(s.dims, op.is_nameless(s), layout) for s, layout in zip(operand.shadows, layouts, strict=True)]
        ),
        operand.origin,
    )


def _layout(shadow: Shadow) -> bytes:
    """Which entries of a shadow along one dimension are alike: those of heads and of places in them, flattened, do not
    lie in the same way. Empty for others."""
    if len(shadow.dims) > 1:
        return b""
    _, first, alike = np.unique(shadow.ids, return_index=True, return_inverse=True)
    return blake2b(first[alike].tobytes(), digest_size=16).digest()


class _Placed(NamedTuple):
    """A shadow in label space: its number among all that meet, its operand's, and one label per axis; whether it only
    says that its operand is repeated; its layout, if another lies along the same axes of its operand."""

    number: int
    operand: int
    dims: tuple[int, ...]
    labels: tuple[Label, ...]
    nameless: bool
    layout: bytes

    def along(self, labels: Iterable[Label]) -> tuple[int, ...]:
        return tuple(self.dims[self.labels.index(label)] for label in labels)


@lru_cache(maxsize=4096)
def _meeting(operands: tuple[_Form, ...], result: tuple[Label, ...]) -> Meeting:
    """What happens when operands of these forms meet. A model of a thousand equal layers asks once."""
    events: list[Event] = []
    placed: list[_Placed] = []
    for number, o in enumerate(operands):
        for dims, nameless, layout in o.shadows:
            labels = tuple(o.labels[dim] for dim in dims)
            placed.append(_Placed(len(placed), number, dims, labels, nameless, layout))
    placed.sort(key=lambda each: each.nameless)
    placed = _without_broadcast(operands, placed, events)
    _meet_bare_dimensions(operands, placed, set(result), events)
    placed = _without_private(operands, placed, set(result), events)
    _meet_repetitions(placed, set(result), events)
    events += _relations(placed, [o.origin for o in operands])
    events += _summed_together(operands, placed, set(result))
    outcomes = _surviving(operands, placed, {label: dim for dim, label in enumerate(result)}, events)
    return Meeting(tuple(events), tuple(outcomes))


def _without_broadcast(
    operands: Sequence[_Form], placed: Sequence[_Placed], events: list[Event]
) -> list[_Placed]:
    extent = _extents(operands)
    kept = []
    for each in placed:
        o = operands[each.operand]
        if any(o.sizes[dim] == 1 < extent[o.labels[dim]] for dim in each.dims):
            events.append(Pinned(each.number, "its only channel is broadcast in"))
        else:
            kept.append(each)
    return kept


def _meet_bare_dimensions(
    operands: Sequence[_Form], placed: Sequence[_Placed], result: set[Label], events: list[Event]
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
                events.append(Collapsed(each.number, each.along(free)))
            elif o.origin is Origin.INPUT:
                events.append(Pinned(each.number, "meets the model input in"))
            else:
                events.append(Pinned(each.number, "meets a tensor without channels in"))


def _meet_repetitions(placed: Sequence[_Placed], result: set[Label], events: list[Event]) -> None:
    """Channels of an operand that is repeated for those of another one, which the result then has for each of them:
    the one head of values for every head of queries. They stay as they are, so that the others may come and go."""
    for each in placed:
        over = {
            label
            for other in placed
            if other.nameless and other.operand == each.operand
            for label in other.labels
            if label in result and label not in each.labels
        }
        served = [p for p in placed if p.operand != each.operand and over & set(p.labels) and not p.nameless]
        apart = all(not set(p.labels) & set(each.labels) for p in served)
        if served and apart and not each.nameless and set(each.labels) <= result:
            events.append(Pinned(each.number, "is repeated for several units in"))


def _without_private(
    operands: Sequence[_Form], placed: Sequence[_Placed], result: set[Label], events: list[Event]
) -> list[_Placed]:
    shared = {
        label for o in operands for label in o.labels if sum(label in other.labels for other in operands) > 1
    }
    kept = []
    for each in placed:
        if all(label not in shared and label not in result for label in each.labels):
            events.append(Pinned(each.number, "lies along a kernel or spatial dimension of"))
        else:
            kept.append(each)
    return kept


def _relations(placed: Sequence[_Placed], origins: Sequence[Origin]) -> Iterator[Event]:
    """What shadows of different operands are to one another; not said again where it follows from others.

    Of shadows on the same labels each is the same as the first one, and so as all others; but where each operand has
    several, laid out alike on both sides (heads and the places in them, flattened), each only as its counterpart.
    """
    repeated = {(each.operand, label) for each in placed if each.nameless for label in each.labels}
    first: dict[frozenset[Label], _Placed] = {}
    for each in placed:
        first.setdefault(frozenset(each.labels), each)
    for position, left in enumerate(placed):
        for right in placed[position + 1 :]:
            head = first[frozenset(left.labels)]
            through_head = (
                head is first[frozenset(right.labels)]
                and head is not left
                and not (left.layout or right.layout)
            )
            if through_head and head.operand not in (left.operand, right.operand):
                continue
            if left.operand != right.operand and not _in_other_ways(left, right, placed):
                yield from _relation(left, right, origins, repeated)


def _in_other_ways(left: _Placed, right: _Placed, placed: Sequence[_Placed]) -> bool:
    """Whether two shadows are laid out along one dimension each in its own way, and each has a counterpart on the other
    side that is laid out like it."""
    if not (left.layout and right.layout) or left.layout == right.layout or left.labels != right.labels:
        return False
    sides = (
        {p.layout for p in placed if p.operand == each.operand and p.labels == each.labels}
        for each in (left, right)
    )
    return all({left.layout, right.layout} <= side for side in sides)


def _relation(
    left: _Placed, right: _Placed, origins: Sequence[Origin], repeated: set[tuple[int, Label]]
) -> list[Event]:
    shared = [label for label in left.labels if label in right.labels]
    if not shared or left.nameless or right.nameless:
        return []
    if len(shared) == len(left.labels) == len(right.labels):
        return [Same(left.number, right.number, tuple(right.labels.index(label) for label in left.labels))]
    for few, many in ((left, right), (right, left)):
        if few.labels != tuple(shared):
            continue
        rest = [label for label in many.labels if label not in shared]
        if origins[few.operand] is Origin.WEIGHT or all((few.operand, label) in repeated for label in rest):
            return [Shared(few.number, many.number, many.along(shared))]
    return [Bundled(left.number, left.along(shared), right.number, right.along(shared))]


def _paired(operands: Sequence[_Form], each: _Placed) -> bool:
    """Whether channels are summed over together with others that are no weights either."""
    meeting = [o.origin for o in operands if set(each.labels) <= set(o.labels)]
    return len(meeting) > 1 and Origin.WEIGHT not in meeting


def _summed_together(
    operands: Sequence[_Form], placed: Sequence[_Placed], result: set[Label]
) -> Iterator[Event]:
    """Channels that are summed over with those of another operand."""
    own = [p for p in placed if operands[p.operand].origin is not Origin.WEIGHT and not p.nameless]
    for each in own:
        lost = set(each.labels) - result
        if lost and any(lost & set(other.labels) for other in own if other.operand != each.operand):
            form = operands[each.operand]
            yield Met(each.number, prod(form.sizes[form.labels.index(label)] for label in lost))


def _surviving(
    operands: Sequence[_Form], placed: Sequence[_Placed], position: Mapping[Label, int], events: list[Event]
) -> list[Outcome]:
    """One shadow for each set of labels: where shadows of two operands met, the wider one stands for both."""
    kept: list[Outcome] = []
    for each in placed:
        labels = [label for label in each.labels if label in position]
        if not labels:
            events.append(Read(each.number, _paired(operands, each)))
            continue
        dims = tuple(position[label] for label in labels)
        outcome = Outcome(each.number, each.operand, each.along(labels), dims)
        if len(labels) < len(each.labels):
            events.append(Collapsed(each.number, outcome.onto))
        if any(o.operand != each.operand and set(dims) <= set(o.dims) for o in kept):
            continue
        kept = [o for o in kept if o.operand == each.operand or not set(o.dims) < set(dims)]
        kept.append(outcome)
    return kept
