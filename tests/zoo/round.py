"""A round through one model of the zoo: every surgery, or a sample of them."""

from __future__ import annotations

import random
from collections.abc import Iterator

from .outcomes import Outcome
from .trials import Trials
from .widths import Width

SEED = 11


def every(trials: Trials) -> Iterator[Outcome]:
    """Grow and shrink every free group; insert, remove and connect once."""
    for width in trials.widths():
        yield from _both_ways(trials, width, compiled=True)
    yield from _depth(trials)


def sampled(trials: Trials, groups: int) -> Iterator[Outcome]:
    """Grow and shrink some of the groups, the same ones every time; insert, remove and connect once."""
    widths = trials.widths()
    for number, width in enumerate(random.Random(SEED).sample(widths, min(groups, len(widths)))):
        yield from _both_ways(trials, width, compiled=number == 0)
    yield from _depth(trials)


def _both_ways(trials: Trials, width: Width, *, compiled: bool) -> Iterator[Outcome]:
    yield trials.grow(width, compiled=compiled)
    if width.group.units > 1:
        yield trials.shrink(width, compiled=compiled)


def _depth(trials: Trials) -> Iterator[Outcome]:
    yield trials.insert(compiled=True)
    yield trials.remove(compiled=True)
    yield trials.skip(compiled=True)
