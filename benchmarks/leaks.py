"""Growth of memory over surgeries and rollbacks."""

from __future__ import annotations

import gc
import resource
import tempfile
from pathlib import Path

import torch
from torch import nn

from benchmarks.apart import in_a_process_of_its_own
from benchmarks.measure import Row, Setting, Table
from esper_es import CapturePolicy, Engine


def tables(setting: Setting) -> list[Table]:
    """Measure."""
    return in_a_process_of_its_own(_tables, setting.quick)


def _tables(quick: bool) -> list[Table]:
    rounds = 50 if quick else 500
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.Adam(model.parameters())
    marks: list[tuple[int, int, float]] = []
    with tempfile.TemporaryDirectory() as folder, Engine(f"sqlite:///{Path(folder) / 'bench.db'}") as engine:
        run = engine.attach(
            model, "bench", (torch.randn(4, 64),), optimizer, capture=CapturePolicy(keep_last=4)
        )
        for turn in range(rounds):
            result = run.surgeon.modify_layer_width(layer_name="0", new_width=320)
            if result.undo_version is None:
                raise RuntimeError(str(result.error))
            run.rollback(result.undo_version)
            if turn + 1 in (rounds // 5, rounds):
                gc.collect()
                tensors = sum(isinstance(o, torch.Tensor) for o in gc.get_objects())
                marks.append((turn + 1, tensors, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
    (early, tensors_early, peak_early), (late, tensors_late, peak_late) = marks
    operations = 2 * (late - early)
    rows = [
        Row(f"tensors alive after {2 * early} operations", tensors_early, unit=""),
        Row(
            f"tensors alive after {2 * late} operations",
            tensors_late,
            "",
            "earlier",
            tensors_late / tensors_early,
        ),
        Row(f"peak memory after {2 * early} operations", peak_early, unit="MB"),
        Row(f"peak memory after {2 * late} operations", peak_late, "MB", "earlier", peak_late / peak_early),
        Row("growth per operation", (peak_late - peak_early) * 1024 / operations, unit="KB"),
    ]
    title = "Memory over surgeries and rollbacks, keep_last=4"
    return [Table(title, rows, clock="looked at twice", threads=torch.get_num_threads())]
