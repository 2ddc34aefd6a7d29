"""How the cost of a surgery, of its undoing and of its replay grows with layers and with parameters."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from attrs import frozen

from benchmarks.measure import CPU, Row, Setting, Table, interleaved, median_ratio, one_thread
from benchmarks.models import square_mlp
from benchmarks.subjects import Subject, subjects
from esper_es import CapturePolicy, Engine, Run

WITHOUT_CAPTURES = CapturePolicy(before_structural_change=False)


def tables(setting: Setting) -> list[Table]:
    """Measure."""
    rounds = 2 if setting.quick else 5
    layers = (64, 128, 256) if setting.quick else (125, 250, 500, 1000, 2000)
    widths = (64, 128, 256) if setting.quick else (128, 256, 512, 1024)
    with one_thread():
        by_layers = [_measured(size, 64, rounds) for size in layers]
        by_width = [_measured(16, width, rounds) for width in widths]
        replays = _replays(2 if setting.quick else 5)
    return [
        _curve("Growth with the layers: MLPs of width 64, SGD", "layers", layers, by_layers, rounds),
        _curve("Growth with the width: MLPs of 16 layers, SGD", "width", widths, by_width, rounds),
        replays,
    ]


@frozen
class Costs:
    """Milliseconds of one surgery on one model."""

    surgery: float
    undo: float
    parameters: int


def _measured(layers: int, width: int, rounds: int) -> Costs:
    model = square_mlp(layers, width)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    layer = str(layers // 2 * 2)
    with tempfile.TemporaryDirectory() as folder, Engine(f"sqlite:///{Path(folder) / 'bench.db'}") as engine:
        run = engine.attach(model, "bench", (torch.randn(4, width),), optimizer)
        made: list[int] = []

        def surgery() -> None:
            made.append(_widened(run, layer, width + 16))

        surgeries, undoings = interleaved(
            [surgery, lambda: run.rollback(made[-1])], rounds, clock=CPU, in_order=True
        )
    parameters = sum(p.numel() for p in square_mlp(layers, width).parameters())
    return Costs(statistics.median(surgeries), statistics.median(undoings), parameters)


def _widened(run: Run, layer: str, width: int) -> int:
    result = run.surgeon.modify_layer_width(layer_name=layer, new_width=width)
    if not result.success:
        raise RuntimeError(f"{layer}: {result.error}")
    return run.version if result.undo_version is None else result.undo_version


def _curve(title: str, what: str, sizes: Sequence[int], costs: Sequence[Costs], rounds: int) -> Table:
    rows = []
    for name in ("surgery", "undo"):
        for number, (size, cost) in enumerate(zip(sizes, costs, strict=True)):
            value = getattr(cost, name)
            before = getattr(costs[number - 1], name) if number else None
            rows.append(
                Row(
                    f"{name}, {what} {size}",
                    value,
                    baseline=f"{what} {sizes[number - 1]}" if before else "",
                    ratio=value / before if before else None,
                    note=f"{cost.parameters:,} parameters, {value / cost.parameters * 1e6:.0f} ns each",
                )
            )
    return Table(
        title,
        rows,
        rounds=rounds,
        clock="CPU time; a surgery with its capture and commit, undone by a rollback",
    )


def _replays(rounds: int) -> Table:
    found, skipped = subjects()
    rows: list[Row] = []
    skipped = list(skipped)
    for subject in found:
        made, reason = _per_fact(subject, rounds)
        rows += made
        skipped += [reason] if reason else []
    return Table("Replay, per fact", rows, rounds=rounds, clock="CPU time, in turn", skipped=skipped)


def _per_fact(subject: Subject, rounds: int, facts: int = 16) -> tuple[list[Row], str | None]:
    """Replay a log of widths that change to and fro, in turn with a replay of its first version."""
    model = subject.build()
    with tempfile.TemporaryDirectory() as folder, Engine(f"sqlite:///{Path(folder) / 'bench.db'}") as engine:
        run = engine.attach(
            model, "bench", subject.example, blueprint=subject.blueprint, capture=WITHOUT_CAPTURES
        )
        base = run.version
        for number in range(facts):
            width = subject.narrow if number % 2 else subject.wide
            result = run.surgeon.modify_layer_width(layer_name=subject.layer, new_width=width)
            if not result.success:
                return [], f"{subject.title}: {result.error}"
        ending, starting = interleaved(
            [lambda: engine.replay("bench"), lambda: engine.replay("bench", version=base)],
            rounds,
            clock=CPU,
        )
    per_fact = statistics.median((late - early) / facts for late, early in zip(ending, starting, strict=True))
    return [
        Row(f"{subject.title}: the base, with its bytes", statistics.median(starting)),
        Row(
            f"the base and {facts} widths after it",
            statistics.median(ending),
            baseline="the base",
            ratio=median_ratio(ending, starting),
            note=f"{per_fact:.2f} ms a fact",
        ),
    ], None
