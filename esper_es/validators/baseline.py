"""What a copy of the model showed before a surgery."""

from __future__ import annotations

import torch
from attrs import frozen
from torch import nn
from torch.optim import Optimizer

from esper_es.example_inputs import ExampleInputs
from esper_es.planning.execution import outputs_unwatched
from esper_es.planning.observation import Observation, observe
from esper_es.validators.backward import gradient_flow


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
        flow = gradient_flow(module, examples)
        gradients = frozenset(name for name, finite in flow.items() if finite is not None)
    return Baseline(
        observation=observation,
        outputs=outputs_unwatched(module, examples, observation),
        gradients=gradients,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        memory_bytes=memory_estimate(module, observation.activation_bytes, optimizer),
    )


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
