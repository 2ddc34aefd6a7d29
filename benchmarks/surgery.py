"""Latency of each surgery, against a deep copy of the model and the plan's 500 ms."""

from __future__ import annotations

import copy
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from benchmarks.measure import Row, Setting, Table, milliseconds, one_thread
from benchmarks.models import mlp, resnet18, train_step
from esper_es import Engine, Run, SurgeryResult

Operation = Callable[[Run], SurgeryResult]

RESNET: dict[str, Operation] = {
    "add_layer": lambda run: run.surgeon.add_layer(
        after_layer="stages.1.0.bn1",
        new_layer={"type": "conv2d", "in_channels": 128, "out_channels": 128},
        layer_name="extra",
    ),
    "modify_layer_width": lambda run: run.surgeon.modify_layer_width(
        layer_name="stages.1.0.conv1", new_width=160
    ),
    "add_skip_connection": lambda run: run.surgeon.add_skip_connection(
        from_layer="stem", to_layer="stages.1"
    ),
    "remove_layer": lambda run: run.surgeon.remove_layer(layer_name="stages.2.1.conv2"),
}
MLP: dict[str, Operation] = {
    "add_layer": lambda run: run.surgeon.add_layer(
        after_layer="2",
        new_layer={"type": "linear", "in_features": 512, "out_features": 512},
        layer_name="extra",
    ),
    "modify_layer_width": lambda run: run.surgeon.modify_layer_width(layer_name="2", new_width=640),
    "add_skip_connection": lambda run: run.surgeon.add_skip_connection(from_layer="0", to_layer="4"),
    "remove_layer": lambda run: run.surgeon.remove_layer(layer_name="4"),
}


def tables(setting: Setting) -> list[Table]:
    """Measure."""
    repeats = 2 if setting.quick else 5
    here = setting.device
    x, y = torch.randn(8, 3, 32, 32).to(here), torch.randint(0, 10, (8,)).to(here)
    flat = torch.randn(8, 64).to(here)
    with one_thread():
        return [
            _table("ResNet-18, Adam", resnet18().to(here), "benchmarks/resnet18", x, y, RESNET, repeats),
            _table("6-layer MLP, width 512, Adam", mlp().to(here), None, flat, y, MLP, repeats),
        ]


def _table(
    title: str,
    model: nn.Module,
    blueprint: str | None,
    x: torch.Tensor,
    y: torch.Tensor,
    operations: dict[str, Operation],
    repeats: int,
) -> Table:
    optimizer = torch.optim.Adam(model.parameters())
    train_step(model, optimizer, x, y)
    copying = milliseconds(lambda: copy.deepcopy(model))
    rows = [Row("copy.deepcopy(model)", copying)]
    with tempfile.TemporaryDirectory() as folder, Engine(f"sqlite:///{Path(folder) / 'bench.db'}") as engine:
        run = engine.attach(model, "bench", (x[:2],), optimizer, blueprint=blueprint)
        train_step(model, optimizer, x, y)
        start = run.capture()
        for name, operation in operations.items():
            rows += _rows(run, start, name, operation, copying, repeats)
    return Table(f"Surgery latency: {title}", rows, rounds=repeats, device=x.device)


def _rows(run: Run, start: int, name: str, operation: Operation, copying: float, repeats: int) -> list[Row]:
    results: list[SurgeryResult] = []
    rollbacks: list[SurgeryResult] = []
    for _ in range(repeats + 1):
        results.append(operation(run))
        if not results[-1].success:
            raise RuntimeError(f"{name}: {results[-1].error}")
        rollbacks.append(run.rollback(start))
    del results[0], rollbacks[0]
    total = statistics.median(r.timings_ms["total"] for r in results)
    phases = {
        phase: statistics.median(r.timings_ms.get(phase, 0.0) for r in results)
        for phase in ("plan", "validate", "prove", "capture", "apply", "commit")
    }
    note = ", ".join(f"{phase} {value:.0f}" for phase, value in phases.items())
    back = statistics.median(r.timings_ms["total"] for r in rollbacks)
    return [
        Row(
            name,
            total,
            baseline="deepcopy",
            ratio=total / copying,
            note=f"{note}; {total / 500:.2f} of 500 ms",
        ),
        Row(f"rollback of {name}", back, baseline="deepcopy", ratio=back / copying),
    ]
