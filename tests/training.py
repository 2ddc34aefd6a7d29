"""How the models of the tests are trained and attached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from models import Zoolet
from torch import nn
from torch.optim import Optimizer

from esper_es import Engine, Run

MakeOptimizer = Callable[[nn.Module], Optimizer]


def one_group(model: nn.Module) -> list[dict[str, Any]]:
    return [{"params": list(model.parameters())}]


def decay_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Weights that decay, and biases and norms that do not."""
    return [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]


def momentum(model: nn.Module) -> Optimizer:
    return torch.optim.SGD(one_group(model), lr=0.05, momentum=0.9)


def adam(model: nn.Module) -> Optimizer:
    return torch.optim.Adam(one_group(model), lr=0.01)


def adamw(model: nn.Module) -> Optimizer:
    return torch.optim.AdamW(decay_groups(model), lr=0.01)


OPTIMIZERS: tuple[MakeOptimizer, ...] = (momentum, adam, adamw)


def gradients(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Run forward and backward in training mode; return the loss."""
    model.train()
    loss: torch.Tensor = model(x).square().mean()
    torch.autograd.backward(loss)
    return loss


def train(model: nn.Module, optimizer: Optimizer, zoolet: Zoolet, steps: int = 1) -> None:
    """Take optimizer steps on random batches."""
    for _ in range(steps):
        optimizer.zero_grad()
        gradients(model, zoolet.batch())
        optimizer.step()


def attached(
    engine: Engine,
    zoolet: Zoolet,
    optimizer: MakeOptimizer | None = None,
    *,
    model: nn.Module | None = None,
    name: str = "model",
    **terms: Any,
) -> Run:
    """Attach a new model of the zoo, or ``model``, with an optimizer over it."""
    module = zoolet.build() if model is None else model
    return engine.attach(
        module,
        name=name,
        example_inputs=(zoolet.batch(),),
        optimizer=None if optimizer is None else optimizer(module),
        blueprint=zoolet.blueprint,
        **terms,
    )


def optimizer_of(run: Run) -> Optimizer:
    """Return the optimizer of a run that has one."""
    optimizer = run.session.live.optimizer
    assert optimizer is not None
    return optimizer


def part_of(run: Run, path: str) -> Any:
    """Return a layer of a run's model, of whatever class it is."""
    return run.model.get_submodule(path)


def train_run(run: Run, zoolet: Zoolet, steps: int = 1) -> None:
    train(run.model, optimizer_of(run), zoolet, steps)
