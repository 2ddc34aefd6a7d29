"""What a copy of the model showed before a surgery."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from attrs import frozen
from torch import nn
from torch.optim import Optimizer

from esper_es.domain.errors import Refused
from esper_es.example_inputs import ExampleInputs
from esper_es.planning.execution import outputs_unwatched
from esper_es.planning.observation import Observation, observe
from esper_es.projections.live.bus import SkipOrderError
from esper_es.projections.live.names import named_tensors
from esper_es.projections.live.rng import preserved_rng
from esper_es.projections.live.structures import tensors_in


@frozen(eq=False)
class Baseline:
    """A copy before the surgery.

    Attributes:
        observation: its run.
        outputs: what it returns when nobody watches.
        gradients: names of parameters that a backward pass from all outputs reaches.
        parameters: scalar parameters.
        memory_bytes: estimated training memory.
    """

    observation: Observation
    outputs: tuple[torch.Tensor, ...]
    gradients: frozenset[str]
    parameters: int
    memory_bytes: int


def baseline_of(
    module: nn.Module,
    examples: ExampleInputs,
    optimizer: Optimizer | None,
    observation: Observation | None = None,
    gradients: frozenset[str] | None = None,
) -> Baseline:
    """Look at a copy before a surgery is tried on it.

    Args:
        module: the copy.
        examples: inputs.
        optimizer: of the live model.
        observation: of the copy, where it was run already.
        gradients: names of the parameters that a gradient reaches, where that is known for its structure.
    """
    observation = observation or observe(module, examples)
    if gradients is None:
        found = gradients_of(module, examples)
        gradients = frozenset(name for name, gradient in found.items() if gradient is not None)
    return Baseline(
        observation=observation,
        outputs=outputs_unwatched(module, examples, observation),
        gradients=gradients,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        memory_bytes=memory_estimate(module, observation.activation_bytes, optimizer),
    )


def gradients_of(module: nn.Module, examples: ExampleInputs) -> Mapping[str, torch.Tensor | None]:
    """Return the gradient of every trainable parameter under a sum of squared outputs, in training mode.

    It is a whole backward pass, as reentrant checkpointing asks for. The module's buffers, training flags and
    gradients, and all generators, are as before afterwards.

    Raises:
        Refused: if the module fails on its example inputs in training mode.
    """
    buffers = [
        (part._buffers, name, buffer, buffer.clone())
        for part in module.modules()
        for name, buffer in part._buffers.items()
        if buffer is not None
    ]
    training = {part: part.training for part in module.modules()}
    gradients = [(parameter, parameter.grad) for parameter in module.parameters()]
    with preserved_rng(), torch.enable_grad():
        try:
            module.train()
            trained = {
                name: tensor
                for name, tensor, role in named_tensors(module)
                if role == "parameter" and tensor.requires_grad
            }
            for parameter in trained.values():
                parameter.grad = None
            for args, kwargs in examples.fresh():
                outputs = [t for t in tensors_in(module(*args, **kwargs)) if t.requires_grad]
                if outputs:
                    loss = torch.stack([(t.float() ** 2).sum() + t.float().sum() for t in outputs]).sum()
                    loss.backward()  # type: ignore[no-untyped-call]
            return {name: parameter.grad for name, parameter in trained.items()}
        except SkipOrderError:
            raise
        except Exception as error:
            raise Refused(
                "the model does not run forward and backward in training mode on its example inputs: "
                f"{type(error).__name__}: {error}; give example inputs on which it does",
                "gradient_flow",
            ) from error
        finally:
            for parameter, gradient in gradients:
                parameter.grad = gradient
            with torch.no_grad():
                for owner, name, buffer, before in buffers:
                    owner[name] = buffer.copy_(before)
            for part, flag in training.items():
                part.training = flag


def memory_estimate(module: nn.Module, activation_bytes: int, optimizer: Optimizer | None) -> int:
    """Return estimated bytes of one training step: parameters, gradients, optimizer state, buffers, activations.

    Optimizer state is counted as full-size moments per parameter: two for Adam's family (three with AMSGrad),
    one for SGD with momentum.
    """
    trainable = sum(p.nbytes for p in module.parameters() if p.requires_grad)
    tensors = sum(p.nbytes for p in module.parameters()) + sum(b.nbytes for b in module.buffers())
    return tensors + trainable * (1 + _moments(optimizer)) + activation_bytes


def _moments(optimizer: Optimizer | None) -> int:
    if optimizer is None:
        return 0
    options = optimizer.defaults
    if "betas" in options:
        return 3 if options.get("amsgrad") else 2
    return 1 if options.get("momentum") else 0
