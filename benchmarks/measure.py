"""Timing and tables."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

from attrs import frozen


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
    """Figures of one benchmark."""

    title: str
    rows: Sequence[Row]

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [
            f"## {self.title}",
            "",
            "| what | median | against | ratio | note |",
            "|---|---:|---|---:|---|",
        ]
        for row in self.rows:
            ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
            lines.append(
                f"| {row.what} | {row.value:,.2f} {row.unit} | {row.baseline} | {ratio} | {row.note} |"
            )
        return "\n".join(lines) + "\n"


def milliseconds(action: Callable[[], object], repeats: int = 7, warmup: int = 1) -> float:
    """Return the median time of an action."""
    for _ in range(warmup):
        action()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def interleaved(actions: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Time several actions in turn, so that a machine that slows down slows all; return times by action."""
    times: list[list[float]] = [[] for _ in actions]
    for turn in range(rounds + 1):
        for index, action in enumerate(actions):
            start = time.perf_counter()
            action()
            if turn:
                times[index].append((time.perf_counter() - start) * 1e3)
    return times
