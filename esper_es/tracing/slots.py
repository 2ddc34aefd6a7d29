"""Slots: one id for each index of each dimension of each parameter of a model, and of the buffers that go with them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import accumulate
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from attrs import frozen
from torch import nn

from esper_es.domain.errors import UsageError
from esper_es.tracing.shadow import Shadow
from esper_es.tracing.union_find import Ids

STATISTICS = ("running_mean", "running_var")
FROZEN = re.compile(r"(?:\w+_)?(?:weight|bias)")
"""Buffers of these names, one number a channel, are parameters in all but training: those of a frozen norm, the zeros
that stand for the bias of keys."""


class TracedTensor(NamedTuple):
    """One parameter or buffer of floating point; tied ones are a single tensor with several names.

    ``name`` is the first of its ``names`` in ``state_dict`` order, ``first_slots[d]`` the id of index 0 of
    dimension ``d``: index ``i`` of that dimension is the slot ``first_slots[d] + i``. ``statistic`` says that it is a
    buffer, which is not trained, ``table`` that it is one of which nothing is known but where it is added.
    """

    name: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    first_slots: tuple[int, ...]
    statistic: bool
    table: bool

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def module(self) -> str:
        """Path of the module that owns the tensor."""
        return self.name.rpartition(".")[0]


class Place(NamedTuple):
    """One dimension of one traced tensor, by the tensor's position among all of them."""

    tensor: int
    dim: int


class SlotIndex:
    """Where slot ids lie: translates ids to places (tensor, dim) and indices, arrays at a time."""

    def __init__(self, tensors: tuple[TracedTensor, ...]) -> None:
        self.tensors = tensors
        self.places = tuple(Place(t, d) for t, tensor in enumerate(tensors) for d in range(len(tensor.shape)))
        sizes = np.array([tensors[t].shape[d] for t, d in self.places], dtype=np.int64)
        self.starts: Ids = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
        self.size = int(self.starts[-1])
        self._by_name = {name: tensor for tensor in tensors for name in tensor.names}
        self._number = {place: number for number, place in enumerate(self.places)}

    def place_numbers(self, slots: Ids) -> Ids:
        """For each slot the position of its place in ``places``."""
        return np.searchsorted(self.starts, slots, side="right") - 1

    def slots(self, tensor: TracedTensor, dim: int) -> Ids:
        start = tensor.first_slots[dim]
        return np.arange(start, start + tensor.shape[dim], dtype=np.int64)

    def number(self, tensor: TracedTensor, dim: int) -> int:
        """The position in ``places`` of a dimension of a tensor."""
        return int(np.searchsorted(self.starts, tensor.first_slots[dim], side="right")) - 1

    def named(self, name: str) -> TracedTensor | None:
        return self._by_name.get(name)

    def describe(self, slot: int) -> str:
        number = int(self.place_numbers(np.array([slot]))[0])
        tensor, dim = self.places[number]
        return f"{self.tensors[tensor].name} dim {dim} [{slot - int(self.starts[number])}]"


@frozen
class SeededTensors:
    """The traced tensors beside the live objects they were read from, and the pairs that share memory."""

    index: SlotIndex
    live: tuple[torch.Tensor, ...]
    overlaps: tuple[tuple[int, int], ...]


def seed(model: nn.Module) -> SeededTensors:
    """Give every dimension of every parameter and every buffer of floating point its slots.

    Raises:
        UsageError: a parameter has no shape yet (lazy modules run once before they can be traced).
    """
    names: dict[int, list[str]] = defaultdict(list)
    live: dict[int, torch.Tensor] = {}
    for name, tensor in _named_tensors(model):
        if isinstance(tensor, nn.parameter.UninitializedParameter | nn.parameter.UninitializedBuffer):
            raise UsageError(f"{name} has no shape yet: run the lazy model once on real data, then trace it")
        names[id(tensor)].append(name)
        live[id(tensor)] = tensor
    traced: list[TracedTensor] = []
    start = 0
    for key, tensor in live.items():
        shape = tuple(tensor.shape)
        firsts = tuple(accumulate(shape, initial=start))
        start = firsts[-1]
        statistic = not isinstance(tensor, nn.Parameter)
        aliases = tuple(names[key])
        table = statistic and not _is_of_channels(aliases[0], tensor)
        traced.append(TracedTensor(aliases[0], aliases, shape, firsts[:-1], statistic, table))
    return SeededTensors(SlotIndex(tuple(traced)), tuple(live.values()), tuple(_overlaps(live.values())))


def seed_shadows(tensor: TracedTensor) -> tuple[Shadow, ...]:
    """One shadow for each dimension: its own slots."""
    return tuple(
        Shadow((dim,), np.arange(first, first + size, dtype=np.int64))
        for dim, (first, size) in enumerate(zip(tensor.first_slots, tensor.shape, strict=True))
        if size
    )


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """All parameters, then all buffers of floating point that have dimensions, under each of their names."""
    buffers = []
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        for local, parameter in module._parameters.items():
            if parameter is not None:
                yield prefix + local, parameter
        for local, buffer in module._buffers.items():
            if buffer is not None and buffer.ndim and buffer.is_floating_point():
                buffers.append((prefix + local, buffer))
    yield from buffers


def _is_of_channels(name: str, buffer: torch.Tensor) -> bool:
    """Whether a buffer's name says that it holds a number for each channel."""
    local = name.rpartition(".")[2]
    return buffer.ndim == 1 and (local in STATISTICS or FROZEN.fullmatch(local) is not None)


def _overlaps(tensors: Iterable[torch.Tensor]) -> Iterator[tuple[int, int]]:
    """Pairs of distinct tensor objects whose elements share memory."""
    extents: list[tuple[int, int, int]] = []
    for number, tensor in enumerate(tensors):
        if tensor.layout is torch.strided and tensor.device.type != "meta" and tensor.numel():
            start = torch._C._data_address(tensor)  # type: ignore[attr-defined]
            extents.append((start, start + _extent(tensor), number))
    extents.sort()
    reach, holder = 0, -1
    for start, end, number in extents:
        if start < reach:
            yield holder, number
        if end > reach:
            reach, holder = end, number


def _extent(tensor: torch.Tensor) -> int:
    """Bytes from the first element of a strided tensor to the end of the last one."""
    if tensor.is_contiguous():
        return tensor.nbytes
    last = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()
