"""Example inputs: what planners and validators feed to copies of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from attrs import frozen
from torch import nn

from esper_es.domain.errors import UsageError
from esper_es.projections.live.rng import preserved_rng
from esper_es.shadow import on_a_copy


@frozen(eq=False)
class ExampleCall:
    """Arguments for one call of the model.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def fresh(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return copies that a model may overwrite."""
        return tuple(_cloned(a) for a in self.args), {k: _cloned(v) for k, v in self.kwargs.items()}


@frozen(eq=False)
class ExampleInputs:
    """Calls of the model that together reach all of it, or as much as is known.

    Attributes:
        calls: one at least.
    """

    calls: tuple[ExampleCall, ...]

    def fresh(self) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
        """Yield positional and keyword arguments of each call: copies that a model may overwrite."""
        for call in self.calls:
            yield call.fresh()

    def __add__(self, other: ExampleInputs) -> ExampleInputs:
        return ExampleInputs((*self.calls, *other.calls))


def normalized(example_inputs: object, module: nn.Module) -> ExampleInputs:
    """Return example inputs from what a caller gives.

    One call is a tensor, a tuple of arguments, or a dict of keyword ones; several are a list of these. Batches of one
    are doubled, because BatchNorm can't train on one and a size of one says nothing about which dimension it is.
    Without inputs, shapes are guessed from the first layer.

    Raises:
        UsageError: if nothing is given and no guess runs, or the type is wrong.
    """
    if example_inputs is None:
        return _guessed(module)
    if isinstance(example_inputs, list) and example_inputs:
        return ExampleInputs(tuple(_doubled(_call(given)) for given in example_inputs))
    return ExampleInputs((_doubled(_call(example_inputs)),))


def _call(given: object) -> ExampleCall:
    if isinstance(given, torch.Tensor):
        return ExampleCall((given,), {})
    if isinstance(given, tuple):
        return ExampleCall(given, {})
    if isinstance(given, Mapping):
        return ExampleCall((), dict(given))
    got = "an empty list" if given == [] else type(given).__name__
    raise UsageError(
        "example_inputs is a tensor, a tuple of positional arguments or a dict of keyword arguments, or, for several "
        f"calls, a list of these; got {got}"
    )


def _doubled(call: ExampleCall) -> ExampleCall:
    tensors = [v for v in (*call.args, *call.kwargs.values()) if isinstance(v, torch.Tensor) and v.ndim]
    if not tensors or any(t.shape[0] != 1 for t in tensors):
        return call
    return ExampleCall(tuple(_twice(a) for a in call.args), {k: _twice(v) for k, v in call.kwargs.items()})


def _twice(value: Any) -> Any:
    return torch.cat([value, value]) if isinstance(value, torch.Tensor) and value.ndim else value


def _cloned(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, tuple):
        return tuple(_cloned(v) for v in value)
    if isinstance(value, list):
        return [_cloned(v) for v in value]
    if isinstance(value, dict):
        return {k: _cloned(v) for k, v in value.items()}
    return value


def _guessed(module: nn.Module) -> ExampleInputs:
    """Try shapes that the first layer with parameters could take."""
    for layer in module.modules():
        for shape, dtype in _candidates(layer):
            device = next((p.device for p in module.parameters()), torch.device("cpu"))
            generator = torch.Generator().manual_seed(0)
            example = (
                torch.randint(0, 2, shape, generator=generator, device="cpu")
                if dtype == torch.int64
                else torch.randn(shape, generator=generator, device="cpu").to(dtype)
            )
            if _runs(module, example.to(device)):
                return ExampleInputs((ExampleCall((example.to(device),), {}),))
    raise UsageError(
        "no example input could be guessed for this model; pass example_inputs=(x,) with a batch it takes"
    )


def _candidates(layer: nn.Module) -> list[tuple[tuple[int, ...], torch.dtype]]:
    if isinstance(layer, nn.Linear):
        return [((2, layer.in_features), layer.weight.dtype), ((2, 3, layer.in_features), layer.weight.dtype)]
    if isinstance(layer, nn.Conv2d):
        return [((2, layer.in_channels, n, n), layer.weight.dtype) for n in (32, 28, 8, 16, 64, 224)]
    if isinstance(layer, nn.Conv1d):
        return [((2, layer.in_channels, n), layer.weight.dtype) for n in (32, 16, 64, 128)]
    if isinstance(layer, nn.Embedding):
        return [((2, 8), torch.int64)]
    return []


def _runs(module: nn.Module, example: torch.Tensor) -> bool:
    with preserved_rng(), torch.no_grad():
        try:
            on_a_copy(module, lambda shadow: shadow.eval()(example))
        except (RuntimeError, ValueError, IndexError, TypeError):
            return False
    return True
