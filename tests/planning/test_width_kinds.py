"""Layers whose outputs are cut into parts that go different ways: new units are like the last one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from esper_es import ModelSurgeon, SurgeryResult

X = torch.randn(5, 3)


class Parts(nn.Module):
    """Two layers read one part each of what another one makes."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.left, self.right = nn.Linear(3, 6), nn.Linear(2, 2), nn.Linear(4, 2)
        self.sizes = [2, 4]

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.parts(torch.relu(self.both(x)))
        y: Tensor = self.left(left) + self.right(right)
        return y

    def parts(self, y: Tensor) -> tuple[Tensor, ...]:
        return y[:, :2], y[:, 2:]


class Split(Parts):
    """Counts the units of both parts."""

    def parts(self, y: Tensor) -> tuple[Tensor, ...]:
        return y.split(self.sizes, 1)


class Around(Parts):
    """The part in the middle is one, what is left of it and right of it the other."""

    def parts(self, y: Tensor) -> tuple[Tensor, ...]:
        return y[:, 2:4], torch.cat([y[:, :2], y[:, 4:]], 1)


def widened(model: nn.Module, width: int) -> SurgeryResult:
    return ModelSurgeon(example_inputs=(X,)).modify_layer_width(model, "both", width)


@pytest.mark.parametrize("kind", [Parts, Split])
@pytest.mark.parametrize("initialization", ["function_preserving", "net2wider", "gradmax"])
def test_a_layer_of_several_kinds_of_units_keeps_its_function_when_it_grows(
    kind: Callable[[], Parts], initialization: str
) -> None:
    model = kind()
    before = model(X)
    result = ModelSurgeon(example_inputs=(X,)).modify_layer_width(
        model, "both", 9, initialization, loss=lambda copied: copied(X).square().sum()
    )
    assert result.success, result.error
    torch.testing.assert_close(model(X), before)


@pytest.mark.parametrize("kind", [Parts, Split])
def test_new_units_are_like_the_last(kind: Callable[[], Parts]) -> None:
    model = kind()
    widened(model, 9)
    assert (model.left.in_features, model.right.in_features) == (2, 7)


def test_new_units_of_the_last_kind_learn() -> None:
    model = Parts()
    widened(model, 9)
    torch.autograd.backward(model(torch.randn(50, 3)).square().sum())
    gradient = model.right.weight.grad
    assert gradient is not None
    assert bool((gradient[:, 4:].abs().sum(0) > 0).all())


def test_a_kind_that_stands_in_two_places_grows_in_neither() -> None:
    assert not widened(Around(), 9).success


class Halves(Parts):
    """Cuts in the middle, wherever that is."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 2), nn.Linear(3, 2)

    def parts(self, y: Tensor) -> tuple[Tensor, ...]:
        return y.tensor_split(2, 1)


def test_the_width_that_is_told_is_that_of_all_parts() -> None:
    assert widened(Parts(), 9).details["new_width"] == 9


def test_parts_that_the_code_keeps_equal_make_up_the_width_that_was_asked_for() -> None:
    model = Halves()
    result = widened(model, 8)
    assert result.success, result.error
    assert (model.both.out_features, model.left.in_features, model.right.in_features) == (8, 4, 4)


class LastLarger(Halves):
    """Cuts in the middle, what is left over belongs to the second part."""

    def parts(self, y: Tensor) -> tuple[Tensor, ...]:
        middle = y.shape[1] // 2
        return y[:, :middle], y[:, middle:]


@pytest.mark.parametrize(
    ("kind", "width", "parts"),
    [
        (Halves, 7, (4, 3)),
        (Halves, 9, (5, 4)),
        (Halves, 5, (3, 2)),
        (LastLarger, 9, (4, 5)),
        (LastLarger, 5, (2, 3)),
        (Parts, 4, (2, 2)),
        (Parts, 5, (2, 3)),
    ],
)
def test_parts_share_a_width_out_as_the_code_cuts_them(
    kind: Callable[[], Parts], width: int, parts: tuple[int, int]
) -> None:
    model = kind()
    result = widened(model, width)
    assert result.success, result.error
    assert (model.left.in_features, model.right.in_features) == parts


@pytest.mark.parametrize(("kind", "width"), [(Halves, 9), (LastLarger, 9), (Halves, 7)])
def test_parts_that_grow_unevenly_keep_the_function(kind: Callable[[], Parts], width: int) -> None:
    model = kind()
    before = model(X)
    widened(model, width)
    torch.testing.assert_close(model(X), before)


class TwoSizes(Halves):
    """Two sizes that happen to be equal."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = 3, 3

    def parts(self, y: Tensor) -> tuple[Tensor, ...]:
        return y.split([self.first, self.second], 1)


@pytest.mark.parametrize("width", [5, 7, 9])
def test_equal_sizes_that_are_given_apart_are_no_law(width: int) -> None:
    model = TwoSizes()
    assert widened(model, width).success
    assert [model.first, model.second] == [model.left.in_features, model.right.in_features]


def test_only_the_last_of_two_equal_parts_grows_where_nothing_ties_them() -> None:
    model = TwoSizes()
    before = model(X)
    widened(model, 9)
    assert (model.left.in_features, model.right.in_features) == (3, 6)
    torch.testing.assert_close(model(X), before)


class OneSize(Halves):
    """One size, given for both parts."""

    def __init__(self) -> None:
        super().__init__()
        self.half = 3

    def parts(self, y: Tensor) -> tuple[Tensor, ...]:
        return y.split([self.half, self.half], 1)


def test_parts_of_one_size_stay_equal() -> None:
    model = OneSize()
    assert widened(model, 10).success
    assert (model.left.in_features, model.right.in_features, model.half) == (5, 5, 5)


def test_parts_of_one_size_are_refused_with_the_nearest_widths() -> None:
    assert "8 and 10 can be" in (widened(OneSize(), 9).error or "")


class Constants(Halves):
    """Sizes that stand in the code."""

    def parts(self, y: Tensor) -> tuple[Tensor, ...]:
        return y.split([3, 3], 1)


def test_sizes_that_stand_in_the_code_are_named() -> None:
    assert "got split_sizes=[3, 3]" in (widened(Constants(), 8).error or "")


class Ends(Halves):
    """Two parts that are equal, whatever lies between them."""

    def parts(self, y: Tensor) -> tuple[Tensor, ...]:
        half = y.shape[1] // 2
        return y[:, :half], y[:, -half:]


def test_a_width_that_equal_parts_can_not_make_up_is_refused_with_the_nearest_that_they_can() -> None:
    result = widened(Ends(), 9)
    assert (result.success, result.check) == (False, "width_unit")
    assert "8 and 10 can be" in (result.error or "")


class Chunks(Halves):
    """Equal parts by the operator that makes them."""

    def parts(self, y: Tensor) -> tuple[Tensor, ...]:
        return y.split(y.shape[1] // 2, 1)


@pytest.mark.parametrize(
    ("width", "nearest"), [(9, "are 8 and 10"), (7, "are 6, as now, and 8"), (1, "is 2")]
)
def test_of_the_nearest_multiples_the_present_width_is_named_as_such(width: int, nearest: str) -> None:
    assert (widened(Chunks(), width).error or "").endswith(f"the nearest {nearest}")
