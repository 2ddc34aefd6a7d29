"""Which channels lie along which dimensions of what modules return."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from esper_es.tracing.carry_memory import CarryMemory
from esper_es.tracing.shadow import Shadow, collapsed
from esper_es.tracing.union_find import Ids

Along = tuple[Ids | None, ...]
"""For each dimension one channel of each index, by its slot; None where none lie along it."""


class Outputs:
    """Collects what the first call of some modules returns while a model is traced.

    Args:
        paths: of the modules.
        stream: picks the tensor that is looked at from a result.
    """

    def __init__(self, paths: Iterable[str], stream: Callable[[Any], torch.Tensor | None]) -> None:
        self.along: dict[str, Along] = {}
        self._paths = tuple(dict.fromkeys(paths))
        self._stream = stream

    @contextmanager
    def watching(self, model: nn.Module, memory: CarryMemory, slots: int) -> Iterator[None]:
        """Watch one run of the model, inside the modes of the tracer; ``memory`` holds what tensors carry."""

        def noting(path: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
            def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
                stream = self._stream(output)
                if stream is not None and path not in self.along:
                    self.along[path] = _along(memory.recall(stream).shadows, stream.ndim, slots)

            return note

        with ExitStack() as stack:
            for path in self._paths:
                stack.callback(model.get_submodule(path).register_forward_hook(noting(path)).remove)
            yield


def _along(shadows: Sequence[Shadow], ndim: int, slots: int) -> Along:
    found: list[Ids | None] = [None] * ndim
    for shadow in shadows:
        for dim in shadow.dims:
            ids = collapsed(shadow, (dim,))
            known = (ids >= 0) & (ids < slots)
            if found[dim] is None and known.any():
                found[dim] = np.where(known, ids, -1)
    return tuple(found)


def turned(one: Along, other: Along, same: Ids) -> tuple[int, int] | None:
    """Return dimensions of two tensors of one shape between which what lies along them changed places: one of the first
    tensor, one of the second; None where nothing says so.

    Args:
        one: of one tensor.
        other: of another.
        same: for each slot the channel that it is.
    """
    classes = [tuple(None if ids is None else _classes(ids, same) for ids in along) for along in (one, other)]
    for dim, there in enumerate(classes[0]):
        for place, here in enumerate(classes[1]):
            if dim != place and there is not None and there == here and classes[1][dim] != there:
                return dim, place
    only = [
        [dim for dim, (a, b) in enumerate(zip(*pair, strict=True)) if a is not None and b is None]
        for pair in ((one, other), (other, one))
    ]
    return (only[0][0], only[1][0]) if only[0] and only[1] else None


def _classes(ids: Ids, same: Ids) -> tuple[int, ...]:
    return tuple(int(same[slot]) if slot >= 0 else -1 for slot in ids.tolist())
