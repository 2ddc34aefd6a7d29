"""What surgeries are timed on: a model, an example for it, and a layer whose width changes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import torch
from attrs import frozen
from torch import nn

from benchmarks.measure import HERE
from benchmarks.models import gpt2, resnet50, square_mlp


@frozen(eq=False)
class Subject:
    """A model to operate on.

    Attributes:
        title: in tables.
        build: makes the model.
        example: arguments as ``attach`` takes them.
        layer: path of the layer whose width changes.
        wide: its width after growing.
        narrow: its width after shrinking.
        blueprint: that ``attach`` records, if any.
        goal: milliseconds for plan, proof and application together, if there is a goal.
    """

    title: str
    build: Callable[[], nn.Module]
    example: tuple[Any, ...] | Mapping[str, Any]
    layer: str
    wide: int
    narrow: int
    blueprint: str | None = None
    goal: float | None = None

    @property
    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The example as positional and keyword arguments."""
        return ((), dict(self.example)) if isinstance(self.example, Mapping) else (self.example, {})

    def run(self, model: nn.Module) -> torch.Tensor:
        """Run a model forward and return its output tensor."""
        args, kwargs = self.arguments
        output = model(*args, **kwargs)
        tensor: torch.Tensor = output if isinstance(output, torch.Tensor) else output.logits
        return tensor

    def train_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Take one training step, so that the optimizer has its state."""
        optimizer.zero_grad()
        self.run(model).float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def subjects(device: torch.device = HERE) -> tuple[list[Subject], list[str]]:
    """Return the subjects on a device, and why others are left out."""
    found = [
        Subject(
            title="ResNet-50, 2 images of 32x32",
            build=lambda: resnet50().to(device),
            example=(torch.randn(2, 3, 32, 32).to(device),),
            layer="stages.1.1.conv1",
            wide=160,
            narrow=96,
            blueprint="benchmarks/resnet50",
            goal=100.0,
        ),
        Subject(
            title="MLP of 1,000 layers of width 64, batch 4",
            build=lambda: square_mlp(1000).to(device),
            example=(torch.randn(4, 64).to(device),),
            layer="1000",
            wide=80,
            narrow=48,
        ),
    ]
    if importlib.util.find_spec("transformers") is None:
        return found, ["GPT-2 small: transformers is not installed"]
    language_model = Subject(
        title="GPT-2 small, 2 sequences of 8 tokens",
        build=lambda: gpt2().to(device),
        example={"input_ids": torch.randint(0, 50257, (2, 8)).to(device)},
        layer="transformer.h.5.mlp.c_fc",
        wide=3200,
        narrow=2944,
        goal=500.0,
    )
    return [found[0], language_model, found[1]], []
