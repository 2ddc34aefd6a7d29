from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from esper_es.effects import output_difference

INF, NAN = math.inf, math.nan


def t(*values: float) -> tuple[Tensor, ...]:
    return (torch.tensor(values),)


def test_a_change_is_measured_by_the_largest_value() -> None:
    assert output_difference(t(4.0, 1.0), t(4.0, 2.0)) == 0.25


def test_what_did_not_move_did_not_change() -> None:
    assert output_difference(t(4.0, 1.0), t(4.0, 1.0)) == 0.0


@pytest.mark.parametrize("filled", [-INF, INF, NAN, -1e4, -1e9, torch.finfo(torch.float32).min])
def test_what_masks_entries_hides_no_change_of_others(filled: float) -> None:
    difference = output_difference(t(filled, 2.0), t(filled, 3.0))
    assert difference == pytest.approx(1 / 3)


@pytest.mark.parametrize("filled", [-INF, NAN, -1e9])
def test_what_masks_entries_hides_no_change_of_other_outputs(filled: float) -> None:
    difference = output_difference((*t(filled, filled), *t(2.0)), (*t(filled, filled), *t(3.0)))
    assert difference is not None
    assert difference > 0.3


@pytest.mark.parametrize(
    ("before", "after"), [(-INF, 1.0), (1.0, -INF), (INF, -INF), (NAN, 1.0), (1.0, NAN), (INF, NAN)]
)
def test_infinities_elsewhere_can_not_be_compared(before: float, after: float) -> None:
    assert output_difference(t(before, 1.0), t(after, 1.0)) is None


def test_nothing_finite_can_not_be_compared() -> None:
    assert output_difference(t(INF, NAN), t(INF, NAN)) is None


def test_rounding_of_small_values_beside_large_ones_is_small() -> None:
    assert output_difference(t(1e3, 1e-3), t(1e3, 1e-3 + 1e-9)) == pytest.approx(1e-12, rel=0.1)


def test_zeros_that_became_something_are_measured_by_it() -> None:
    assert output_difference(t(0.0, 0.0), t(0.0, 0.5)) == 1.0


def test_other_shapes_can_not_be_compared() -> None:
    assert output_difference(t(1.0), t(1.0, 2.0)) is None
