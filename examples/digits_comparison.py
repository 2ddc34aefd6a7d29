"""Static networks to compare grown ones with: never changed, trained as long on batches of the same order."""

from __future__ import annotations

from collections.abc import Callable
from statistics import mean, stdev

import torch
from attrs import frozen
from digits_task import Digits, accuracy, new_optimizer, train_epoch
from torch import nn


@frozen
class Outcome:
    """A trained network.

    Attributes:
        parameters: how many scalars were trained.
        test_accuracy: on images that decided nothing before.
    """

    parameters: int
    test_accuracy: float


def outcome_of(model: nn.Module, data: Digits) -> Outcome:
    """Measure a trained network."""
    return Outcome(sum(p.numel() for p in model.parameters()), accuracy(model, data.test))


@frozen
class Contestant:
    """A way to get a network, and how well it did, once for each seed."""

    name: str
    outcomes: tuple[Outcome, ...]

    @property
    def accuracies(self) -> tuple[float, ...]:
        return tuple(outcome.test_accuracy for outcome in self.outcomes)

    @property
    def parameters(self) -> str:
        """Number of parameters, or their range where seeds differ."""
        counts = sorted({outcome.parameters for outcome in self.outcomes})
        return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"

    @property
    def mean(self) -> float:
        return mean(self.accuracies)

    @property
    def deviation(self) -> float:
        """Standard deviation over the seeds; 0 for a single one."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0


def initialise(model: nn.Module) -> None:
    """Give every layer fresh values, as torch does when it makes one.

    Raises:
        ValueError: for a layer with parameters of its own that does not know how.
    """
    for path, module in model.named_modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
        elif any(True for _ in module.parameters(recurse=False)):
            raise ValueError(f"layer {path!r} ({type(module).__name__}) has no reset_parameters()")


def train_static(model: nn.Module, data: Digits, epochs: int, seed: int, tick: Callable[[], None]) -> Outcome:
    """Train a network from scratch, and never change it."""
    torch.manual_seed(seed)
    initialise(model)
    optimizer, scheduler = new_optimizer(model, epochs)
    for epoch in range(1, epochs + 1):
        train_epoch(model, optimizer, data.train, seed, epoch)
        scheduler.step()
        tick()
    return outcome_of(model, data)
