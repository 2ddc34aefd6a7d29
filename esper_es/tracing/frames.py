"""What the code of a module has at hand: the channels in what it is given, in what it gets back, in what it computes.

Code that did not run can use nothing else, but for what others kept on modules, which counts as at hand everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray
from torch import nn
from torch._ops import OpOverload

from esper_es.tracing.carry_memory import CarryMemory
from esper_es.tracing.operator_mode import OperatorMode
from esper_es.tracing.structure import tensors_in
from esper_es.tracing.union_find import Ids

_OF_TORCH = frozenset(vars(nn.Module()))


class Extent(NamedTuple):
    """How many channels stand side by side, and whether a flatten could make them a multiple: in images, sequences."""

    size: int
    stretches: bool


@frozen(eq=False)
class Frame:
    """Channels that the code of one module has at hand, as flags over all slots, by their extent, and by the shape that
    a tensor has along all its dimensions with channels."""

    channels: dict[Extent, NDArray[np.bool_]] = field(factory=dict)
    shapes: dict[tuple[int, ...], NDArray[np.bool_]] = field(factory=dict)

    def extents_of(self, slots: Ids) -> set[Extent]:
        """How channels of ``slots`` appear; empty if they do not."""
        return {extent for extent, flags in self.channels.items() if flags[slots].any()}

    def sizes_beside(self, slots: Ids) -> set[int]:
        """Sizes in which other channels appear than those of ``slots``."""
        return {e.size for e, flags in self.channels.items() if _holds_others(flags, slots)}

    def shapes_beside(self, slots: Ids) -> set[tuple[int, ...]]:
        """Shapes that tensors have along their dimensions with channels, where these are others than ``slots``."""
        return {shape for shape, flags in self.shapes.items() if not flags[slots].any()}


class Frames:
    """Collects what the code of some modules has at hand while a model is traced.

    Args:
        paths: of the modules, "" for the model itself.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._frames = {path: Frame() for path in paths}

    def __getitem__(self, path: str) -> Frame:
        return self._frames[path]

    @contextmanager
    def watching(self, model: nn.Module, memory: CarryMemory, slots: int) -> Iterator[None]:
        """Watch one run of the model, inside the modes of the tracer; ``memory`` holds what tensors carry."""
        frames = {id(module): self._frames.get(path) for path, module in model.named_modules()}
        running: list[Frame | None] = []

        def note(value: Any) -> None:
            if running and running[-1] is not None:
                _note(running[-1], value, memory, slots)

        def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            running.append(frames[id(module)])
            note((args, kwargs))

        def end(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            running.pop()
            note(output)

        with ExitStack() as stack:
            for module in model.modules():
                stack.callback(module.register_forward_pre_hook(begin, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(end, always_call=True).remove)
            with _Operators(note):
                yield
        kept = [_kept(module) for module in model.modules()]
        for frame in self._frames.values():
            _note(frame, kept, memory, slots)


def _note(frame: Frame, value: Any, memory: CarryMemory, slots: int) -> None:
    for tensor in tensors_in(value):
        shadows = memory.recall(tensor).shadows
        along = sorted({dim for shadow in shadows for dim in shadow.dims})
        shape = frame.shapes.setdefault(tuple(tensor.shape[d] for d in along), np.zeros(slots, dtype=bool))
        for shadow in shadows:
            found = shadow.ids[(shadow.ids >= 0) & (shadow.ids < slots)]
            shape[found] = True
            for size in {*shadow.ids.shape, shadow.ids.size}:
                extent = Extent(size, tensor.ndim > len(shadow.dims) + 1)
                frame.channels.setdefault(extent, np.zeros(slots, dtype=bool))[found] = True


def _holds_others(flags: NDArray[np.bool_], slots: Ids) -> bool:
    return bool(np.setdiff1d(np.flatnonzero(flags), slots).size)


def _kept(module: nn.Module) -> Mapping[str, Any]:
    """What a module keeps beside its parameters, buffers and parts."""
    return {name: value for name, value in vars(module).items() if name not in _OF_TORCH}


class _Operators(OperatorMode):
    """Tells of what every operator takes and returns."""

    def __init__(self, note: Callable[[Any], None]) -> None:
        super().__init__()
        self._note = note

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self._note((args, kwargs, result))
        return result
