"""Histories that the tests of the command line read."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from esper_es import Cause, Engine, Run

HOSTILE = "more [bold]capacity[/bold] \x1b[31mred\x07 \u202eesrever"
"""A reason that tries to steer a terminal."""

BIRTH_CAPTURE = 2
BEFORE_WIDENING = 5
WIDENING = 6
BEFORE_ADDING = 9
ADDING = 10
GERMINATION = 13
REFUSAL = 14
TRAINED_ON = 16
ROLLBACK = 18


def perceptron() -> nn.Sequential:
    """Return the model as it is at birth, but for its bytes."""
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-2)


def train(run: Run, optimizer: torch.optim.Optimizer, steps: int = 2) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        run.model(torch.randn(4, 4)).square().mean().backward()
        optimizer.step()


def record_digits(directory: Path) -> None:
    """Record one model whose versions are those named above."""
    torch.manual_seed(0)
    model = perceptron()
    optimizer = optimizer_of(model)
    with Engine(f"sqlite:///{directory / 'runs.db'}") as engine:
        run = engine.attach(model, name="digits", example_inputs=(torch.randn(4, 4),), optimizer=optimizer)
        train(run, optimizer)
        run.epoch_end({"val_acc": 0.5})
        alice = Cause(actor="alice", reasoning=HOSTILE, decision_id="d-1", confidence=0.75, caused_by=4)
        run.surgeon.modify_layer_width(layer_name="0", new_width=12, cause=alice)
        train(run, optimizer)
        run.epoch_end({"val_acc": 0.6})
        linear = {"type": "linear", "in_features": 3, "out_features": 3}
        run.surgeon.add_layer(after_layer="2", new_layer=linear, layer_name="extra")
        run.seeds.plant("s1", "0")
        run.seeds.germinate("s1", "mlp")
        run.surgeon.add_layer(after_layer="nowhere", new_layer=linear, layer_name="extra")
        captured = run.capture()
        train(run, optimizer)
        run.rollback(captured, reason="a dead end")
        assert run.version == ROLLBACK


def record_pair(directory: Path) -> None:
    """Record two models, without training."""
    with Engine(f"sqlite:///{directory / 'runs.db'}") as engine:
        for name in ("first", "second"):
            engine.attach(perceptron(), name=name, example_inputs=(torch.randn(4, 4),))


def record_narrowing(directory: Path) -> tuple[int, list[int]]:
    """Record a model, called ``digits``, that becomes narrower; return the version and the units that stayed."""
    with Engine(f"sqlite:///{directory / 'runs.db'}") as engine:
        model = nn.Sequential(nn.Linear(4, 40), nn.ReLU(), nn.Linear(40, 3))
        run = engine.attach(model, name="digits", example_inputs=(torch.randn(4, 4),))
        done = run.surgeon.modify_layer_width(layer_name="0", new_width=20)
        return run.version, list(done.details["kept_units"])
