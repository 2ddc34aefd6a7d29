"""A backward pass of a copy of the model: which parameters a gradient reaches, and what it is."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from esper_es.domain.errors import Refused
from esper_es.example_inputs import ExampleInputs
from esper_es.projections.live.bus import SkipOrderError
from esper_es.projections.live.names import named_tensors
from esper_es.projections.live.rng import preserved_rng
from esper_es.projections.live.structures import tensors_in

Look = Callable[[str, torch.Tensor], None]
"""Is shown the name of a parameter and its gradient; one part after another, where several examples give it one."""


def gradient_flow(
    module: nn.Module, examples: ExampleInputs, draw: int | None = None
) -> Mapping[str, bool | None]:
    """Return for every trainable parameter whether all of its gradient is finite; None where none arrives.

    Args:
        module: the copy.
        examples: inputs.
        draw: seeds the generators for it; without, they go on from where they are.

    Raises: as ``backward_pass``.
    """
    finite: dict[str, bool | None] = dict.fromkeys(_trained(module))

    def look(name: str, gradient: torch.Tensor) -> None:
        finite[name] = finite[name] is not False and _finite(gradient)

    with preserved_rng():
        if draw is not None:
            random.seed(draw)
            np.random.seed(draw)
            torch.manual_seed(draw)
        backward_pass(module, examples, look)
    return finite


def gradients_of(
    module: nn.Module, examples: ExampleInputs, names: Collection[str]
) -> Mapping[str, torch.Tensor]:
    """Return the gradients of the parameters named, where one arrives.

    Raises: as ``backward_pass``.
    """
    gradients: dict[str, torch.Tensor] = {}

    def look(name: str, gradient: torch.Tensor) -> None:
        if name in names:
            gradients[name] = gradients[name] + gradient if name in gradients else gradient

    backward_pass(module, examples, look)
    return gradients


def backward_pass(module: nn.Module, examples: ExampleInputs, look: Look) -> None:
    """Show the gradient of every trainable parameter under a sum of squared outputs, in training mode.

    It is a whole backward pass, as reentrant checkpointing asks for; but no gradient stays once it was shown, so that
    all of them take no more memory than the largest. The module's buffers, training flags and gradients, and all
    generators, are as before afterwards.

    Raises:
        Refused: if the module fails on its example inputs in training mode.
    """
    handles: list[RemovableHandle] = []
    with _restored(module), preserved_rng(), torch.enable_grad():
        try:
            for name, parameter in _trained(module).items():
                show = partial(_show, name, look)
                handles.append(parameter.register_post_accumulate_grad_hook(show))  # type: ignore[no-untyped-call]
            module.train()
            for args, kwargs in examples.fresh():
                outputs = [t for t in tensors_in(module(*args, **kwargs)) if t.requires_grad]
                if outputs:
                    loss = torch.stack([(t.float() ** 2).sum() + t.float().sum() for t in outputs]).sum()
                    loss.backward()  # type: ignore[no-untyped-call]
        except SkipOrderError:
            raise
        except Exception as error:
            raise Refused(
                "the model does not run forward and backward in training mode on its example inputs: "
                f"{type(error).__name__}: {error}; give example inputs on which it does",
                "gradient_flow",
            ) from error
        finally:
            for handle in handles:
                handle.remove()


def _show(name: str, look: Look, parameter: torch.Tensor) -> None:
    gradient = parameter.grad
    parameter.grad = None
    if gradient is not None:
        look(name, gradient)


def _trained(module: nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for name, tensor, role in named_tensors(module)
        if role == "parameter" and tensor.requires_grad
    }


@contextmanager
def _restored(module: nn.Module) -> Iterator[None]:
    """Buffers, training flags and gradients as they were."""
    buffers = [
        (part._buffers, name, buffer, buffer.clone())
        for part in module.modules()
        for name, buffer in part._buffers.items()
        if buffer is not None
    ]
    training = {part: part.training for part in module.modules()}
    gradients = [(parameter, parameter.grad) for parameter in module.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        with torch.no_grad():
            for owner, name, buffer, before in buffers:
                owner[name] = buffer.copy_(before)
        for part, flag in training.items():
            part.training = flag


def _finite(gradient: torch.Tensor) -> bool:
    """Say whether all values are finite, by the extreme ones: NaN counts as both, and nothing is allocated."""
    values = gradient if gradient.layout is torch.strided else gradient.coalesce().values()
    real = torch.view_as_real(values) if values.is_complex() else values
    return not real.numel() or all(math.isfinite(extreme) for extreme in torch.aminmax(real))
