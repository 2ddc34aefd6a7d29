"""Capture and restore of a ResNet-18 with Adam, against torch.save, torch.load and copying the tensors."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch

from benchmarks.measure import Row, Setting, Table, milliseconds
from benchmarks.models import resnet18, train_step
from esper_es import Engine


def tables(setting: Setting) -> list[Table]:
    """Measure."""
    repeats = 3 if setting.quick else 7
    model = resnet18().to(setting.device)
    optimizer = torch.optim.Adam(model.parameters())
    x, y = torch.randn(8, 3, 32, 32).to(setting.device), torch.randint(0, 10, (8,)).to(setting.device)
    clock = setting.wall
    train_step(model, optimizer, x, y)
    tensors = [*model.state_dict().values()]
    tensors += [v for s in optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor)]
    megabytes = sum(t.nbytes for t in tensors) / 1e6
    with tempfile.TemporaryDirectory() as name, Engine(f"sqlite:///{Path(name) / 'bench.db'}") as engine:
        folder = Path(name)
        run = engine.attach(model, "bench", (x,), optimizer, blueprint="benchmarks/resnet18")
        copying = milliseconds(lambda: [t.clone() for t in tensors], repeats, clock=clock)
        saving = milliseconds(lambda: _save(folder, model, optimizer), repeats, clock=clock)
        loading = milliseconds(lambda: _load(folder, model, optimizer), repeats, clock=clock)

        def touched() -> None:
            with torch.no_grad():
                for tensor in tensors:
                    if tensor.is_floating_point():
                        tensor.mul_(1.0001)

        def changed() -> None:
            touched()
            run.capture()

        touching = milliseconds(touched, repeats, clock=clock)
        capturing = milliseconds(changed, repeats, clock=clock) - touching
        again = milliseconds(run.capture, repeats, clock=clock)
        version = run.capture()
        restoring = milliseconds(lambda: run.rollback(version), repeats, clock=clock)
    rows = [
        Row("copying all tensors", copying),
        Row("torch.save + fsync", saving, baseline="copying", ratio=saving / copying),
        Row("torch.load + load_state_dict", loading, baseline="copying", ratio=loading / copying),
        Row("capture, everything changed", capturing, baseline="torch.save", ratio=capturing / saving),
        Row("capture, nothing changed", again, baseline="torch.save", ratio=again / saving),
        Row(
            "rollback",
            restoring,
            baseline="torch.load",
            ratio=restoring / loading,
            note="captures the state left, verifies every byte, rebuilds, fingerprints",
        ),
    ]
    title = f"Capture and restore, ResNet-18 with Adam, {megabytes:.0f} MB"
    return [Table(title, rows, rounds=repeats, threads=torch.get_num_threads(), device=setting.device)]


def _save(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    with (folder / "checkpoint.pt").open("wb") as file:
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
        file.flush()
        os.fsync(file.fileno())


def _load(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    loaded = torch.load(folder / "checkpoint.pt", weights_only=True)
    model.load_state_dict(loaded["model"])
    optimizer.load_state_dict(loaded["optimizer"])
