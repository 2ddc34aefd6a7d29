"""Tracing which channel feeds which, against running the model and against Torch-Pruning's graph."""

from __future__ import annotations

import statistics

import torch

from benchmarks import peers
from benchmarks.measure import Row, Setting, Table, interleaved, median_ratio, one_thread
from benchmarks.subjects import Subject, subjects
from esper_es.tracing import trace


def tables(setting: Setting) -> list[Table]:
    """Measure."""
    rows: list[Row] = []
    found, skipped = subjects(setting.device)
    rounds = 3 if setting.quick else 11
    with one_thread():
        for subject in found:
            rows += _rows(subject, rounds, setting)
    lacking = peers.missing(peers.TORCH_PRUNING)
    return [
        Table(
            "Tracing",
            rows,
            rounds=rounds,
            clock=f"{setting.steady_name}, in turn",
            skipped=[*skipped, *([lacking] if lacking else [])],
            device=setting.device,
        )
    ]


def _rows(subject: Subject, rounds: int, setting: Setting) -> list[Row]:
    model = subject.build().eval()
    compares = peers.missing(peers.TORCH_PRUNING) is None

    def forward() -> None:
        with torch.no_grad():
            subject.run(model)

    actions = [forward, lambda: trace(model, [subject.arguments])]
    if compares:
        actions.append(lambda: peers.dependency_graph(subject, model))
    times = interleaved(actions, rounds, clock=setting.steady)
    tracing = statistics.median(times[1])
    rows = [
        Row(f"{subject.title}: forward", statistics.median(times[0])),
        Row("trace", tracing, baseline="forward", ratio=median_ratio(times[1], times[0])),
    ]
    if compares:
        building = statistics.median(times[2])
        rows.append(
            Row("Torch-Pruning: build_dependency", building, note="assumes unknown operators element-wise")
        )
        rows.append(
            Row(
                "trace",
                tracing,
                baseline="Torch-Pruning",
                ratio=median_ratio(times[1], times[2]),
                note="goal: 2",
            )
        )
    return rows
