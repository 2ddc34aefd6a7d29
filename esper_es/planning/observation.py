"""What one run of a copy of the model shows: which modules ran, in which order, on which shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from attrs import field, frozen
from torch import nn

from esper_es.domain.errors import Refused
from esper_es.example_inputs import ExampleInputs
from esper_es.projections.live.rng import preserved_rng
from esper_es.shadow import tensors_in


@frozen(eq=False)
class Call:
    """One execution of a module.

    Attributes:
        path: the module.
        module: the module itself.
        start: position of its beginning among all beginnings and ends of the run.
        end: position of its end.
        inputs: shapes of the tensors it was given.
        output: shape of its first output tensor.
        dtype: of its first output tensor; new layers behind it take it.
        structure: ``"tensor"``, ``"tuple"``, or another type's name.
        length: of a tuple.
    """

    path: str
    module: nn.Module
    start: int
    end: int
    inputs: tuple[tuple[int, ...], ...]
    output: tuple[int, ...] | None
    dtype: torch.dtype
    structure: str
    length: int


@frozen(eq=False)
class Observation:
    """A run of the model on its example inputs, in eval mode and without gradients.

    Attributes:
        calls: executions, in the order of their beginnings.
        outputs: the model's output tensors.
        taken: by path, ``(first input tensor, first output tensor)`` of each call, for the paths asked for.
        activation_bytes: of the outputs of modules without children.
    """

    calls: tuple[Call, ...]
    outputs: tuple[torch.Tensor, ...]
    taken: Mapping[str, tuple[tuple[torch.Tensor, torch.Tensor], ...]] = field(factory=dict)
    activation_bytes: int = 0

    def calls_of(self, path: str) -> tuple[Call, ...]:
        return tuple(call for call in self.calls if call.path == path)

    def executed(self, path: str) -> bool:
        return any(call.path == path for call in self.calls)

    def require_executed(self, path: str, what: str = "layer") -> tuple[Call, ...]:
        """Return the calls of a module.

        Raises:
            Refused: if the example inputs never ran it.
        """
        calls = self.calls_of(path)
        if not calls:
            raise Refused(
                f"{what} {path!r} is never executed on the example inputs; give example inputs that reach it",
                "not_executed",
            )
        return calls


class _Recorder:
    def __init__(self, names: Mapping[int, str], take: frozenset[str]) -> None:
        self.names = names
        self.take = take
        self.clock = 0
        self.open: list[tuple[int, tuple[torch.Tensor, ...]]] = []
        self.calls: list[Call] = []
        self.taken: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        self.activation_bytes = 0

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.open.append((self.clock, tuple(tensors_in((args, kwargs)))))
        self.clock += 1

    def finish(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        start, given = self.open.pop()
        outputs = tensors_in(output)
        path = self.names[id(module)]
        self.calls.append(
            Call(
                path=path,
                module=module,
                start=start,
                end=self.clock,
                inputs=tuple(tuple(tensor.shape) for tensor in given),
                output=tuple(outputs[0].shape) if outputs else None,
                dtype=outputs[0].dtype if outputs else torch.get_default_dtype(),
                structure="tensor" if isinstance(output, torch.Tensor) else type(output).__name__,
                length=len(output) if isinstance(output, (tuple, list)) else 1,
            )
        )
        self.clock += 1
        if path in self.take and given and outputs:
            self.taken.setdefault(path, []).append((given[0].clone(), outputs[0].clone()))
        if not module._modules:
            self.activation_bytes += sum(tensor.nbytes for tensor in outputs)


def observe(module: nn.Module, examples: ExampleInputs, take: Iterable[str] = ()) -> Observation:
    """Run a module, in eval mode and without gradients, and watch it.

    Training flags and random number generators are as before afterwards. Whatever the run raises goes
    through.

    Args:
        module: a copy of the live model.
        examples: what to run it on.
        take: paths of modules whose inputs and outputs are kept.
    """
    names = {id(part): path for path, part in module.named_modules()}
    recorder = _Recorder(names, frozenset(take))
    handles = []
    for part in module.modules():
        handles.append(part.register_forward_pre_hook(recorder.begin, with_kwargs=True, prepend=True))
        handles.append(part.register_forward_hook(recorder.finish, with_kwargs=True))
    try:
        output = in_eval(module, lambda: _run(module, examples))
    finally:
        for handle in handles:
            handle.remove()
    return Observation(
        calls=tuple(sorted(recorder.calls, key=lambda call: call.start)),
        outputs=tuple(tensors_in(output)),
        taken={path: tuple(pairs) for path, pairs in recorder.taken.items()},
        activation_bytes=recorder.activation_bytes,
    )


def _run(module: nn.Module, examples: ExampleInputs) -> Any:
    args, kwargs = examples.fresh()
    with torch.no_grad():
        return module(*args, **kwargs)


def in_eval(module: nn.Module, action: Callable[[], Any]) -> Any:
    """Call something with a module in eval mode; training flags and generators are as before afterwards."""
    training = [part for part in module.modules() if part.training]
    with preserved_rng():
        try:
            module.eval()
            return action()
        finally:
            for part in training:
                part.training = True
