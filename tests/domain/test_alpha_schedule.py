"""Ramps of alpha."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_es.domain.alpha import CURVES, AlphaSchedule

from .strategies import alpha_schedules

STEEPEST = {"linear": 1.0, "cosine": math.pi / 2}
"""Largest slope of a curve from 0 to 1 over a unit of time."""


@given(alpha_schedules())
def test_a_ramp_begins_where_it_says(schedule: AlphaSchedule) -> None:
    assert schedule.alpha(0) == schedule.start


@given(alpha_schedules(), st.integers(0, 100))
def test_from_its_end_on_a_ramp_is_exactly_at_its_target(schedule: AlphaSchedule, later: int) -> None:
    assert schedule.alpha(schedule.epochs + later) == schedule.target


@given(alpha_schedules())
def test_a_ramp_never_jumps(schedule: AlphaSchedule) -> None:
    alphas = [schedule.alpha(elapsed) for elapsed in range(schedule.epochs + 2)]
    step = abs(schedule.target - schedule.start) * STEEPEST[schedule.curve] / schedule.epochs
    assert all(abs(b - a) <= step + 1e-12 for a, b in pairwise(alphas))


@given(alpha_schedules())
def test_a_ramp_never_turns_back(schedule: AlphaSchedule) -> None:
    alphas = [schedule.alpha(elapsed) for elapsed in range(schedule.epochs + 1)]
    rises = schedule.target >= schedule.start
    assert alphas == sorted(alphas, reverse=not rises)


@given(alpha_schedules(), st.integers(-5, 200))
def test_alpha_stays_between_start_and_target(schedule: AlphaSchedule, elapsed: int) -> None:
    low, high = sorted((schedule.start, schedule.target))
    assert low <= schedule.alpha(elapsed) <= high


@given(alpha_schedules(), st.integers(-5, 200))
def test_progress_is_one_exactly_when_the_ramp_has_ended(schedule: AlphaSchedule, elapsed: int) -> None:
    assert (schedule.progress(elapsed) == 1.0) == (elapsed >= schedule.epochs)


def test_every_curve_has_a_known_slope() -> None:
    assert set(STEEPEST) == set(CURVES)


@pytest.mark.parametrize(
    "wrong", [{"curve": "square"}, {"start": -0.1}, {"target": 1.1}, {"target": math.nan}, {"epochs": 0}]
)
def test_a_ramp_that_makes_no_sense_cannot_be_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AlphaSchedule(**wrong)
