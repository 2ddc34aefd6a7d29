"""Runs the benchmarks and prints their tables; ``--write`` keeps them in docs/benchmarks.md."""

from __future__ import annotations

import argparse
import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks import captures, leaks, overhead, replays, surgery

BENCHMARKS = {
    "surgery": surgery.tables,
    "overhead": overhead.tables,
    "captures": captures.tables,
    "replays": replays.tables,
    "leaks": leaks.tables,
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
    date = datetime.now(UTC).date().isoformat()
    return (
        "# Benchmarks\n\n"
        f"Made by `make bench` on {date}: {os.cpu_count()} cores ({platform.machine()}), Python "
        f"{platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} threads, CPU. Medians of "
        "one run on a shared machine: read the ratios.\n"
    )


if __name__ == "__main__":
    main()
