"""Timing and tables."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import torch
from attrs import frozen

WALL = time.perf_counter
CPU = time.process_time
"""Seconds that this process computed, on all its threads: a busy machine does not lengthen them much."""
HERE = torch.device("cpu")


@frozen
class Setting:
    """How to measure.

    Attributes:
        quick: whether few repeats are enough.
        device: where models stand.
    """

    quick: bool
    device: torch.device = HERE

    def wall(self) -> float:
        """Return the wall time in seconds, once the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return WALL()

    @property
    def steady(self) -> Callable[[], float]:
        """The clock that a busy machine disturbs least."""
        return CPU if self.device.type == "cpu" else self.wall

    @property
    def steady_name(self) -> str:
        """What that clock counts, for a table."""
        return "CPU time" if self.device.type == "cpu" else "wall time"


@frozen
class Row:
    """One figure.

    Attributes:
        what: what was measured.
        value: median.
        unit: of the value.
        baseline: what it is compared with; empty for a baseline itself.
        ratio: value over the baseline's median, if there is one.
        note: anything a reader must know.
    """

    what: str
    value: float
    unit: str = "ms"
    baseline: str = ""
    ratio: float | None = None
    note: str = ""


@frozen
class Table:
    """Figures of one benchmark.

    Attributes:
        title: what was measured.
        rows: the figures.
        rounds: how many measurements each median is of.
        clock: what was counted: ``"wall time"``, ``"CPU time"``.
        threads: that torch might use.
        skipped: what could not be measured, and why.
        device: where the models stood.
    """

    title: str
    rows: Sequence[Row]
    rounds: int = 1
    clock: str = "wall time"
    threads: int = 1
    skipped: Sequence[str] = ()
    device: torch.device = HERE

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [
            f"## {self.title}",
            "",
            f"{machine(self.device)}; {self.threads} thread{'s' * (self.threads > 1)}; medians of n = {self.rounds}; "
            f"{self.clock}.",
            "",
            "| what | median | against | ratio | note |",
            "|---|---:|---|---:|---|",
        ]
        for row in self.rows:
            ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
            lines.append(
                f"| {row.what} | {row.value:,.2f} {row.unit} | {row.baseline} | {ratio} | {row.note} |"
            )
        lines += [line for reason in self.skipped for line in ("", f"Skipped: {reason}.")]
        return "\n".join(lines) + "\n"


def machine(device: torch.device = HERE) -> str:
    """Return GPU, if there is one, processor, cores, date and release of torch, as every table states them."""
    date = datetime.now(UTC).date().isoformat()
    gpu = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    return f"{gpu}{_processor()}, {os.cpu_count()} cores, {date}, torch {torch.__version__}"


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread: threads that wait for one another measure the neighbours on the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def milliseconds(
    action: Callable[[], object], repeats: int = 7, warmup: int = 1, clock: Callable[[], float] = WALL
) -> float:
    """Return the median time of an action."""
    return statistics.median(interleaved([action], repeats, warmup=warmup, clock=clock)[0])


def interleaved(
    actions: Sequence[Callable[[], object]],
    rounds: int,
    *,
    warmup: int = 1,
    clock: Callable[[], float] = WALL,
    before: Callable[[], object] = lambda: None,
    in_order: bool = False,
) -> list[list[float]]:
    """Time several actions in turn, so that a machine that slows down slows all; return milliseconds by action.

    Args:
        actions: what to time.
        rounds: how often.
        warmup: rounds that are not counted.
        clock: what to count.
        before: done before each action, not counted.
        in_order: whether each action builds on the one before; otherwise every round begins with another one, so
            that none always follows the same one.
    """
    times: list[list[float]] = [[] for _ in actions]
    for turn in range(-warmup, rounds):
        for position in range(len(actions)):
            index = position if in_order else (position + turn) % len(actions)
            before()
            with uncollected():
                start = clock()
                actions[index]()
                taken = clock() - start
            if turn >= 0:
                times[index].append(taken * 1e3)
    return times


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection while something is timed, as in ``timeit``: one pass over all objects that are alive falls
    into some round or other, and costs as much as a surgery on a model of a thousand layers."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def median_ratio(times: Sequence[float], baseline: Sequence[float]) -> float:
    """Return the median of the ratios within the same rounds."""
    return statistics.median(one / other for one, other in zip(times, baseline, strict=True))
