"""Tries every surgery on all models of the zoo: ``make zoo``, or for some, ``cd tests && python -m zoo GPT-2 T5``."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

from esper_es import Engine

from .catalog import ZOO
from .page import page
from .replaying import differing, elsewhere
from .report import Visit
from .round import every
from .species import Species
from .trials import Trials

PAGE = Path(__file__).parents[2] / "docs" / "zoo.md"


def visited(species: Species, url: str, device: str) -> Visit:
    """Try everything on one model."""
    began = time.perf_counter()
    with Engine(url) as engine:
        trials = Trials(species, engine, device)
        pins = trials.pins()
        outcomes = tuple(every(trials))
    with elsewhere() as process:
        differ = process.submit(differing, url, trials.versions).result()
    return Visit(
        species=species.name,
        parameters=sum(p.numel() for p in species.build().parameters()),
        compiles=trials.compiles,
        pins=tuple(pins),
        outcomes=outcomes,
        replays=len(trials.versions),
        differing=tuple(differ),
        seconds=time.perf_counter() - began,
    )


def main() -> int:
    """Visit the models named on the command line, or all; say what was wrong."""
    parser = argparse.ArgumentParser(prog="zoo", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*ZOO, []], metavar="MODEL")
    parser.add_argument("--write", action="store_true", help="write docs/zoo.md")
    parser.add_argument("--device", default="cpu", help="where the models stand")
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False
    visits = []
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(chosen.names or ZOO):
            visits.append(visited(ZOO[name], f"sqlite:///{folder}/{number}.db", chosen.device))
            sys.stderr.write(f"{visits[-1].summary()}\n")
    text = page(visits)
    if chosen.write:
        PAGE.write_text(text)
    else:
        sys.stdout.write(text)
    return 1 if any(visit.wrong for visit in visits) else 0


if __name__ == "__main__":
    sys.exit(main())
