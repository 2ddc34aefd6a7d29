"""Which modules ran, in which order, inside one another, on which shapes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from esper_es.tracing.structure import described, tensors_in

Shape = tuple[int, ...]


class ModuleCall(NamedTuple):
    """One call of one module.

    ``started`` and ``ended`` are ticks of one clock over all calls of a trace, so the calls of a module's
    children lie between its own two ticks. ``parent`` is the ``number`` of the call it was made from.
    """

    path: str
    kind: str
    number: int
    example: int
    parent: int | None
    started: int
    ended: int
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]
    structure: str

    def as_dict(self) -> dict[str, Any]:
        """The call in JSON's types."""
        return self._asdict() | {
            "inputs": [list(s) for s in self.inputs],
            "outputs": [list(s) for s in self.outputs],
        }


class _OpenCall(NamedTuple):
    """A call that has begun."""

    path: str
    kind: str
    number: int
    parent: int | None
    started: int
    inputs: tuple[Shape, ...]


class CallRecorder:
    """Records module calls while hooks are in place, and knows which module is running."""

    def __init__(self) -> None:
        self._paths: dict[int, str] = {}
        self._finished: dict[int, ModuleCall] = {}
        self._open: list[_OpenCall] = []
        self._clock = 0
        self._count = 0
        self.example = 0

    @property
    def current(self) -> str:
        """Path of the innermost running module; the root is the empty path."""
        return self._open[-1].path if self._open else ""

    @property
    def calls(self) -> tuple[ModuleCall, ...]:
        """All finished calls in the order in which they started."""
        return tuple(self._finished[number] for number in sorted(self._finished))

    @contextmanager
    def recording(self, model: nn.Module) -> Iterator[None]:
        """Hook every module of a model, and take every hook off again."""
        handles: list[RemovableHandle] = []
        begin, end = self._begin, self._end
        try:
            for path, module in model.named_modules():
                self._paths[id(module)] = path
                handles.append(module.register_forward_pre_hook(begin, with_kwargs=True))
                handles.append(module.register_forward_hook(end, always_call=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        parent = self._open[-1].number if self._open else None
        path, kind = self._paths[id(module)], type(module).__name__
        shapes = _shapes((*args, *kwargs.values()) if kwargs else args)
        self._open.append(_OpenCall(path, kind, self._count, parent, self._clock, shapes))
        self._clock += 1
        self._count += 1

    def _end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._open and self._open[-1].path == self._paths[id(module)]:
            path, kind, number, parent, started, inputs = self._open.pop()
            if isinstance(output, torch.Tensor):
                shapes, structure = _shapes((output,)), "Tensor"
            else:
                shapes, structure = _shapes(tensors_in(output)), described(output)
            self._finished[number] = ModuleCall(
                path, kind, number, self.example, parent, started, self._clock, inputs, shapes, structure
            )
            self._clock += 1


def _shapes(values: Iterable[Any]) -> tuple[Shape, ...]:
    """Shapes of all tensors. No torch function mode needs to hear that they were asked for."""
    found: list[Shape] = []
    with torch._C.DisableTorchFunction():
        for value in values:
            if isinstance(value, torch.Tensor):
                found.append(tuple(value.shape))
            else:
                found += [tuple(tensor.shape) for tensor in tensors_in(value)]
    return tuple(found)
