"""Runs the benchmarks and prints their tables; ``--write`` keeps them in docs/benchmarks.md."""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import torch

from benchmarks import captures, leaks, overhead, peaks, replays, scaling, surgery, traces, widths
from benchmarks.measure import machine

BENCHMARKS = {
    "surgery": surgery.tables,
    "traces": traces.tables,
    "widths": widths.tables,
    "scaling": scaling.tables,
    "overhead": overhead.tables,
    "captures": captures.tables,
    "replays": replays.tables,
    "leaks": leaks.tables,
    "peaks": peaks.tables,
}


def main() -> None:
    """Run them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], help="which; all by default")
    parser.add_argument("--quick", action="store_true", help="few repeats")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    options = parser.parse_args()
    torch.manual_seed(0)
    parts = [_heading()]
    for name in options.names or BENCHMARKS:
        for table in BENCHMARKS[name](options.quick):
            parts.append(table.markdown())
            print(parts[-1], flush=True)
    if options.write:
        Path("docs/benchmarks.md").write_text("\n".join(parts))


def _heading() -> str:
    return (
        f"# Benchmarks\n\nMade by `make bench` on a shared machine ({machine()}, Python {platform.python_version()}, "
        "CPU): read the ratios, each of figures taken in turn in one run.\n"
    )


if __name__ == "__main__":
    main()
