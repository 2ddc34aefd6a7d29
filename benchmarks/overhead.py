"""Time of a training step with the engine attached, against the same loop without it."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.measure import CPU, Row, Table, interleaved, median_ratio, milliseconds, one_thread
from benchmarks.models import small_cnn, train_step
from esper_es import AlphaSchedule, Engine, Run
from esper_es.projections.live.modules import Residual

STEPS = 2
"""Steps in a row: few, so that what slows the machine down slows all loops of a round."""

PLAIN = "without the engine"
BY_HAND = "without the engine, same layer by hand"


def tables(quick: bool) -> list[Table]:
    """Measure."""
    with one_thread():
        return [_table(8 if quick else 80)]


def _table(rounds: int) -> Table:
    loops: dict[str, Callable[[], None]] = {
        PLAIN: _loop(small_cnn()),
        "without the engine, again": _loop(small_cnn()),
        "attached, no seeds": _attached(lambda run: None),
        "one dormant seed": _attached(_dormant),
        BY_HAND: _loop(_with_static_branch()),
        "one incubating seed": _attached(_incubating),
        "one blended seed": _attached(_blended),
        "one fossilized seed": _attached(_fossilized),
    }
    hook = _hook()
    gc.collect()
    times = dict(zip(loops, interleaved(list(loops.values()), rounds, warmup=3, clock=CPU), strict=True))
    return Table(
        "Training step, small CNN, batch 32, SGD with momentum",
        [*_rows(times), Row("what the engine does at the end of a step", hook, note="by itself")],
        rounds=rounds,
        clock="CPU time; ratios are medians of the ratios within a round",
    )


def _rows(times: dict[str, list[float]]) -> list[Row]:
    rows = []
    baseline = PLAIN
    for name, measured in times.items():
        value = statistics.median(measured) / STEPS
        if name == BY_HAND:
            rows.append(Row(name, value, baseline=PLAIN, ratio=median_ratio(measured, times[PLAIN])))
            baseline = BY_HAND
        elif name == PLAIN:
            rows.append(Row(name, value))
        else:
            note = "what the measurement can't tell apart" if name.endswith("again") else ""
            rows.append(
                Row(name, value, baseline=baseline, ratio=median_ratio(measured, times[baseline]), note=note)
            )
    return rows


def _loop(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> Callable[[], None]:
    chosen = optimizer or torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    x, y = torch.randn(32, 3, 32, 32), torch.randint(0, 10, (32,))

    def loop() -> None:
        for _ in range(STEPS):
            train_step(model, chosen, x, y)

    return loop


def _with_static_branch() -> nn.Module:
    """Return the CNN with the branch of a grown seed, written by hand."""
    layers = list(small_cnn())
    branch = nn.Sequential(
        nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.GroupNorm(1, 64), nn.ReLU(), nn.Conv2d(64, 64, 1)
    )
    return nn.Sequential(*layers[:9], Residual(branch), *layers[9:])


def _attached(prepare: Callable[[Run], None]) -> Callable[[], None]:
    model = small_cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    run = Engine().attach(model, "bench", (torch.randn(4, 3, 32, 32),), optimizer)
    prepare(run)
    return _loop(model, optimizer)


def _hook() -> float:
    """Return how long the engine's hook on the optimizer takes, step by step, after gradients were made."""
    runs: list[Run] = []
    loop = _attached(runs.append)
    loop()
    session = runs[0].session
    return milliseconds(lambda: session.boundary.declare(session.live), 200, clock=CPU)


def _dormant(run: Run) -> None:
    run.seeds.plant("seed", "8")


def _incubating(run: Run) -> None:
    _dormant(run)
    run.seeds.germinate("seed", "conv_small")
    run.seeds.advance("seed")


def _blended(run: Run) -> None:
    _incubating(run)
    run.epoch_end()
    run.seeds.advance("seed", schedule=AlphaSchedule(epochs=1))
    run.epoch_end()


def _fossilized(run: Run) -> None:
    _blended(run)
    run.seeds.fossilize("seed", override="benchmark", evidence={"contribution": 0.0})
