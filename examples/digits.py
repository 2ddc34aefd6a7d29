"""Grow small networks while they learn to read digits; then let another process prove what happened.

    python examples/digits.py

The training loop is plain PyTorch; what embeds the engine in it is marked:  # << esper-es
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from digits_comparison import Contestant, Outcome, outcome_of, train_static
from digits_model import BLUEPRINT, NAME, START, digits_cnn
from digits_record import Place, Recorder
from digits_report import print_commands, print_comparison, print_timeline, wide_console
from digits_schedule import CONSTRAINTS, EPOCHS, WATCH, schedule
from digits_task import Digits, accuracy, digits, new_optimizer, train_epoch, use_one_thread
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from esper_es import Engine  # << esper-es

SEEDS = 3
"""Networks to grow, and to train without changes."""

console = wide_console()


def grow(data: Digits, place: Place, seed: int, progress: Progress) -> Outcome:
    """Train a network, and change it as the schedule says."""
    torch.manual_seed(seed)
    model = digits_cnn(**START)
    optimizer, scheduler = new_optimizer(model, EPOCHS)
    plan = schedule(data.validation)
    with Engine(place.url) as engine:  # << esper-es
        run = engine.attach(  # << esper-es
            model,
            name=NAME,
            example_inputs=data.train.pixels[:8],
            optimizer=optimizer,
            scheduler=scheduler,
            blueprint=BLUEPRINT,
            blueprint_args=START,
            constraints=CONSTRAINTS,
            watch=WATCH,
        )
        recorder = Recorder.of(engine, run, data.test, place.record)
        engine.subscribe(recorder)  # << esper-es
        task = progress.add_task(f"growing, seed {seed}", total=EPOCHS, note="")
        for epoch in range(1, EPOCHS + 1):
            train_epoch(model, optimizer, data.train, seed, epoch)
            scheduler.step()
            recorder.look()
            score = accuracy(model, data.validation)
            run.epoch_end(metrics={"val_acc": score})  # << esper-es
            for row in plan:
                if row.epoch == epoch:
                    row.do(run, row.cause)  # << esper-es
            progress.update(task, advance=1, note=f"version {run.version}, validation {score:.3f}")
        run.capture(reason="trained")  # << esper-es
    return outcome_of(model, data)


def compare(
    data: Digits, place: Place, grown: tuple[Outcome, ...], progress: Progress
) -> tuple[Contestant, ...]:
    """Train static networks of the first and of the last architecture, as many as networks were grown."""
    task = progress.add_task("static networks", total=2 * len(grown) * EPOCHS, note="")
    starting: list[Outcome] = []
    final: list[Outcome] = []
    with Engine(place.url) as engine:
        for seed in range(len(grown)):
            for outcomes, model in ((starting, digits_cnn(**START)), (final, engine.replay(NAME))):
                outcomes.append(train_static(model, data, EPOCHS, seed, lambda: progress.advance(task)))
    return (
        Contestant("grown", grown),
        Contestant("static, starting architecture", tuple(starting)),
        Contestant("static, final architecture of seed 0", tuple(final)),
    )


def report(place: Place, contestants: tuple[Contestant, ...]) -> None:
    """Print what happened, how the networks compare, and where to look further."""
    with Engine(place.url) as engine:
        history = engine.history(NAME)
    print_timeline(console, history)
    if contestants:
        print_comparison(console, contestants)
    print_commands(console, command_line_program(), place, history)


def command_line_program() -> str:
    """Return how to call ``esper-es`` from here."""
    beside_python = Path(sys.executable).with_name("esper-es")
    return "esper-es" if shutil.which("esper-es") else os.path.relpath(beside_python)


def prove(place: Place) -> int:
    """Let a process of its own prove the run from its log; return that process' exit code."""
    script = Path(__file__).with_name("prove.py")
    return subprocess.run([sys.executable, str(script), str(place.directory)], check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description="Grow small networks on handwritten digits, and prove it.")
    parser.add_argument("--out", type=Path, default=Path("runs/digits"), help="directory of the results")
    parser.add_argument("--quick", action="store_true", help="one network, and nothing to compare it with")
    arguments = parser.parse_args()
    logging.basicConfig(
        format="%(message)s", handlers=[RichHandler(console=console, show_time=False, show_path=False)]
    )
    use_one_thread()
    data = digits()
    places = [Place(arguments.out / f"seed-{seed}") for seed in range(1 if arguments.quick else SEEDS)]
    for place in places:
        place.clear()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        grown = tuple(grow(data, place, seed, progress) for seed, place in enumerate(places))
        contestants = () if arguments.quick else compare(data, places[0], grown, progress)
    report(places[0], contestants)
    return prove(places[0])


if __name__ == "__main__":
    sys.exit(main())
