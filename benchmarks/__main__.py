"""Runs the benchmarks and prints their tables; ``--write`` keeps them in docs/benchmarks.md, beside those not run.

With ``--device cuda`` it runs those that time a GPU too, and keeps them in docs/benchmarks-cuda.md.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import torch

from benchmarks import captures, leaks, overhead, peaks, replays, scaling, sizes, surgery, traces, widths
from benchmarks.measure import Setting, machine
from benchmarks.pages import page

ON_ANY_DEVICE = {
    "surgery": surgery.tables,
    "traces": traces.tables,
    "widths": widths.tables,
    "overhead": overhead.tables,
    "captures": captures.tables,
    "peaks": peaks.tables,
}
BENCHMARKS = {
    **ON_ANY_DEVICE,
    "scaling": scaling.tables,
    "replays": replays.tables,
    "leaks": leaks.tables,
    "sizes": sizes.tables,
}
PAGES = {"cpu": Path("docs/benchmarks.md"), "cuda": Path("docs/benchmarks-cuda.md")}


def main() -> None:
    """Run them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], help="which; all by default")
    parser.add_argument("--quick", action="store_true", help="few repeats")
    parser.add_argument("--write", action="store_true", help="keep the tables in docs/")
    parser.add_argument("--device", choices=[*PAGES], default="cpu", help="where the models stand")
    options = parser.parse_args()
    chosen = BENCHMARKS if options.device == "cpu" else ON_ANY_DEVICE
    elsewhere = [name for name in options.names if name not in chosen]
    if elsewhere:
        parser.error(f"on the CPU only: {', '.join(elsewhere)}")
    torch.manual_seed(0)
    setting = Setting(options.quick, torch.device(options.device))
    tables: list[str] = []
    for name in options.names or chosen:
        for table in chosen[name](setting):
            tables.append(table.markdown())
            print(tables[-1], flush=True)
    if options.write:
        path = PAGES[options.device]
        before = path.read_text("utf-8") if options.names and path.exists() else ""
        path.write_text(page(_heading(setting.device), tables, before), "utf-8")


def _heading(device: torch.device) -> str:
    command, title = (
        ("make bench", "Benchmarks")
        if device.type == "cpu"
        else (f"python -m benchmarks --device {device.type}", "Benchmarks on a GPU")
    )
    return (
        f"# {title}\n\nMade by `{command}` on a shared machine ({machine(device)}, Python "
        f"{platform.python_version()}, {device.type.upper()}): read the ratios, each of figures taken in turn in one "
        "run.\n"
    )


if __name__ == "__main__":
    main()
