"""Time of a training step with the engine attached, against the same loop without it."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.measure import Row, Setting, Table, interleaved, median_ratio, milliseconds, one_thread
from benchmarks.models import small_cnn, train_step
from esper_es import AlphaSchedule, Engine, Run
from esper_es.projections.live.modules import Residual

STEPS = 2
"""Steps in a row: few, so that what slows the machine down slows all loops of a round."""

PLAIN = "without the engine"
BY_HAND = "without the engine, same layer by hand"


def tables(setting: Setting) -> list[Table]:
    """Measure."""
    with one_thread():
        return [_table(8 if setting.quick else 80, setting)]


def _table(rounds: int, setting: Setting) -> Table:
    device = setting.device
    loops: dict[str, Callable[[], None]] = {
        PLAIN: _loop(small_cnn().to(device)),
        "without the engine, again": _loop(small_cnn().to(device)),
        "attached, no seeds": _attached(device, lambda run: None),
        "one dormant seed": _attached(device, _dormant),
        BY_HAND: _loop(_with_static_branch().to(device)),
        "one incubating seed": _attached(device, _incubating),
        "one blended seed": _attached(device, _blended),
        "one fossilized seed": _attached(device, _fossilized),
    }
    hook = _hook(setting)
    gc.collect()
    times = dict(
        zip(loops, interleaved(list(loops.values()), rounds, warmup=3, clock=setting.steady), strict=True)
    )
    return Table(
        "Training step, small CNN, batch 32, SGD with momentum",
        [*_rows(times), Row("what the engine does at the end of a step", hook, note="by itself")],
        rounds=rounds,
        clock=f"{setting.steady_name}; ratios are medians of the ratios within a round",
        device=device,
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
    device = next(model.parameters()).device
    x, y = torch.randn(32, 3, 32, 32).to(device), torch.randint(0, 10, (32,)).to(device)

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


def _attached(device: torch.device, prepare: Callable[[Run], None]) -> Callable[[], None]:
    model = small_cnn().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    run = Engine().attach(model, "bench", (torch.randn(4, 3, 32, 32).to(device),), optimizer)
    prepare(run)
    return _loop(model, optimizer)


def _hook(setting: Setting) -> float:
    """Return how long the engine's hook on the optimizer takes, step by step, after gradients were made."""
    runs: list[Run] = []
    loop = _attached(setting.device, runs.append)
    loop()
    session = runs[0].session
    return milliseconds(lambda: session.boundary.declare(session.live), 200, clock=setting.steady)


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
