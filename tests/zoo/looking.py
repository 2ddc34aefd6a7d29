"""What a model does: its outputs, how far they moved, and whether it trains and compiles."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from esper_es.projections.live.structures import tensors_in

from .species import Inputs


def moved(inputs: Inputs, device: str) -> Inputs:
    """Return the inputs on a device."""
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, inputs)


def called(model: nn.Module, inputs: Inputs) -> Any:
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)


def outputs(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Return what a model computes in evaluation; the model itself is left alone."""
    watched = copy.deepcopy(model).eval()
    with torch.no_grad():
        return numbers(called(watched, inputs))


def numbers(output: object) -> list[Tensor]:
    """Return the tensors of floating point in a nested output."""
    return [tensor for tensor in tensors_in(output) if tensor.is_floating_point()]


def difference(before: list[Tensor], after: list[Tensor]) -> float:
    """Return the largest difference, relative to the largest output; infinite where the first changed its shape.

    What stands behind the first (an encoder's hidden states) may be as wide as what changed its width.
    """
    if len(before) != len(after) or before[0].shape != after[0].shape:
        return float("inf")
    pairs = [(a, b) for a, b in zip(before, after, strict=True) if a.shape == b.shape]
    return max((a - b).abs().max().item() for a, b in pairs) / max(a.abs().max().item() for a, _ in pairs)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Inputs, steps: int) -> float:
    """Take optimizer steps that make the outputs smaller; return the last loss."""
    model.train()
    loss = torch.tensor(0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.stack([t.square().mean() for t in numbers(called(model, inputs))]).sum()
        torch.autograd.backward(loss)
        optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def compiles(model: nn.Module, inputs: Inputs) -> str:
    """Compile a copy of a model as one graph and run it; return why that fails, or an empty string."""
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(model).eval(), backend="eager", fullgraph=True)
    try:
        with torch.no_grad(), torch._dynamo.config.patch(allow_rnn=True):
            found = numbers(called(compiled, inputs))
    except Exception as error:  # noqa: BLE001  (whatever the compiler says is the finding)
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    finally:
        torch._dynamo.reset()
    return (
        ""
        if difference(outputs(model, inputs), found) <= 1e-5
        else "the compiled model computes other outputs"
    )
