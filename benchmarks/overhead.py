"""Time of a training step with the engine attached, against the same loop without it."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.measure import Row, Table, interleaved
from benchmarks.models import small_cnn, train_step
from esper_es import AlphaSchedule, Engine, Run
from esper_es.projections.live.modules import Residual

STEPS = 8


def tables(quick: bool) -> list[Table]:
    """Measure, on one thread: threads that wait for one another measure the neighbours on the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [_table(quick)]
    finally:
        torch.set_num_threads(threads)


def _table(quick: bool) -> Table:
    loops: dict[str, Callable[[], None]] = {
        "without the engine": _loop(small_cnn()),
        "without the engine, same layer by hand": _loop(_with_static_branch()),
        "attached, no seeds": _attached(lambda run: None),
        "one dormant seed": _attached(_dormant),
        "one incubating seed": _attached(_incubating),
        "one blended seed": _attached(_blended),
        "one fossilized seed": _attached(_fossilized),
    }
    times = interleaved(list(loops.values()), 5 if quick else 25)
    medians = {name: statistics.median(t) / STEPS for name, t in zip(loops, times, strict=True)}
    return Table("Training step, small CNN, batch 32, SGD with momentum, one thread", _rows(medians))


def _rows(medians: dict[str, float]) -> list[Row]:
    rows = []
    for name, value in medians.items():
        by_hand = any(word in name for word in ("incubating", "blended", "fossilized"))
        baseline = "without the engine, same layer by hand" if by_hand else "without the engine"
        rows.append(Row(name, value, baseline=baseline, ratio=value / medians[baseline]))
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
