"""How much memory one surgery takes at its peak, against the model's own."""

from __future__ import annotations

import copy
import ctypes
import gc
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.apart import in_a_process_of_its_own
from benchmarks.measure import Row, Setting, Table
from benchmarks.subjects import subjects
from esper_es import Engine

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def tables(setting: Setting) -> list[Table]:
    """Measure."""
    if setting.device.type == "cpu" and not RESET.exists():
        return [Table("Memory of one surgery", [], skipped=["the peak of a process is told by Linux only"])]
    found, skipped = subjects()
    rows = [
        row for number in range(len(found)) for row in in_a_process_of_its_own(_rows, number, setting.device)
    ]
    return [
        Table("Memory of one surgery", rows, clock="looked at once", skipped=skipped, device=setting.device)
    ]


def _rows(number: int, device: torch.device) -> list[Row]:
    peak = _peak if device.type == "cpu" else _peak_on_gpu
    torch.set_num_threads(1)
    subject = subjects(device)[0][number]
    model = subject.build()
    optimizer = torch.optim.Adam(model.parameters())
    subject.train_step(model, optimizer)
    size = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers())) / 1e6
    with tempfile.TemporaryDirectory() as folder, Engine(f"sqlite:///{Path(folder) / 'bench.db'}") as engine:
        run = engine.attach(model, "bench", subject.example, optimizer, blueprint=subject.blueprint)
        run.surgeon.modify_layer_width(layer_name=subject.layer, new_width=subject.wide)
        surgery = peak(
            lambda: run.surgeon.modify_layer_width(layer_name=subject.layer, new_width=subject.narrow)
        )
    copying = peak(lambda: copy.deepcopy(model))
    return [
        Row(f"{subject.title}: the model", size, "MB"),
        Row("copy.deepcopy(model)", copying, "MB", "the model", copying / size),
        Row("narrower, with a capture", surgery, "MB", "the model", surgery / size),
    ]


def _peak(action: Callable[[], object]) -> float:
    """Return by how many megabytes the process grew at most, once what it had freed before was given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    RESET.write_text("5")
    before = _megabytes("VmRSS")
    action()
    return _megabytes("VmHWM") - before


def _peak_on_gpu(action: Callable[[], object]) -> float:
    """Return by how many megabytes the memory of the GPU in use grew at most."""
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    action()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def _megabytes(name: str) -> float:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1e3
