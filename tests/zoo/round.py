"""A round through one model of the zoo: every surgery, or a sample of them."""

from __future__ import annotations

import random
from collections.abc import Iterator

from esper_es.tracing import WidthGroup

from .outcomes import Outcome
from .trials import HEAD_CHANNELS, Trials

SEED = 11


def every(trials: Trials) -> Iterator[Outcome]:
    """Grow and shrink every free group, and the heads of one attention of each kind; insert, remove and connect once;
    compile after each."""
    for group in trials.groups():
        yield from _both_ways(trials, group, compiled=True)
    for heads in trials.heads():
        yield trials.larger_heads(heads, compiled=True)
        if heads.size > HEAD_CHANNELS:
            yield trials.smaller_heads(heads, compiled=True)
    yield from _depth(trials, compiled=True)


def sampled(trials: Trials, count: int) -> Iterator[Outcome]:
    """Grow and shrink some of the groups, the same ones every time; insert, remove and connect once.

    Compiling costs more than all the rest: it is done for the first group alone.
    """
    free = trials.groups()
    for number, group in enumerate(random.Random(SEED).sample(free, min(count, len(free)))):
        yield from _both_ways(trials, group, compiled=number == 0)
    for heads in trials.heads()[:count]:
        yield trials.larger_heads(heads)
    yield from _depth(trials, compiled=False)


def _both_ways(trials: Trials, group: WidthGroup, *, compiled: bool) -> Iterator[Outcome]:
    yield trials.grow(group, compiled=compiled)
    if group.units > trials.species.units:
        yield trials.shrink(group, compiled=compiled)


def _depth(trials: Trials, *, compiled: bool) -> Iterator[Outcome]:
    yield trials.insert(compiled=compiled)
    yield trials.remove(compiled=compiled)
    yield trials.skip(compiled=compiled)
