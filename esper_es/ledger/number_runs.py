"""Lists of numbers as runs: ``[first, count]``, or ``[first, count, step]`` where the step is not one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise, repeat

from esper_es.domain.canonical import Json
from esper_es.ledger.unreadable import Unreadable


def runs_of(numbers: Sequence[int]) -> list[list[int]]:
    """Return the runs of a list of numbers, each as long as can be, from the front."""
    runs: list[list[int]] = []
    start = 0
    while start < len(numbers):
        step = numbers[start + 1] - numbers[start] if start + 1 < len(numbers) else 1
        count = 1
        for before, after in pairwise(numbers[start:]):
            if after - before != step:
                break
            count += 1
        runs.append([numbers[start], count] if step == 1 else [numbers[start], count, step])
        start += count
    return runs


def numbers_of(runs: Json, most: int, where: str) -> list[int]:
    """Return the numbers that stored runs stand for.

    Raises:
        Unreadable: if they are not runs, or of more than ``most`` numbers.
    """
    if not isinstance(runs, list) or not all(map(_is_run, runs)):
        raise Unreadable(f"{where} must be a list of [first, count] or [first, count, step]")
    if sum(run[1] for run in runs) > most:
        raise Unreadable(f"{where} is of more than {most} numbers")
    return [number for run in runs for number in _numbers(*run)]


def _is_run(run: Json) -> bool:
    well_formed = isinstance(run, list) and len(run) in (2, 3) and all(type(number) is int for number in run)
    return well_formed and run[1] >= 1


def _numbers(first: int, count: int, step: int = 1) -> Iterator[int]:
    return repeat(first, count) if step == 0 else iter(range(first, first + count * step, step))
