from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper_es.domain.errors import UsageError
from esper_es.tracing import (
    Growth,
    Member,
    Refusal,
    group_growth,
    group_selection,
    growth,
    selection,
    trace,
)

from .zoo import Flattened, ResNet, UNet, example, image


def member(*positions: int) -> Member:
    return Member("w", 0, "", "consumer", ("consumer",), np.array(positions))


def grown(*positions: int, count: int = 1) -> Growth:
    result = growth(member(*positions), count)
    assert isinstance(result, Growth)
    return result


def test_new_rows_come_last() -> None:
    assert grown(0, 1, 2, count=2).gather.tolist() == [0, 1, 2, -1, -1]


def test_new_columns_of_a_concatenated_part_come_after_that_part() -> None:
    assert grown(-1, 0, 1, -1, -1).gather.tolist() == [0, 1, 2, -1, 3, 4]


def test_a_channel_major_flatten_gets_a_whole_block_at_the_end() -> None:
    assert grown(0, 0, 1, 1).gather.tolist() == [0, 1, 2, 3, -1, -1]


def test_a_position_major_flatten_gets_one_column_at_every_position() -> None:
    assert grown(0, 1, 0, 1).gather.tolist() == [0, 1, -1, 2, 3, -1]


def test_packed_heads_get_new_rows_in_each_of_their_segments() -> None:
    result = grown(0, 0, 1, 1, 0, 1, 0, 1)
    assert result.gather.tolist() == [0, 1, 2, 3, -1, -1, 4, 5, -1, 6, 7, -1]


def test_new_indices_know_their_unit_and_their_place_in_it() -> None:
    result = grown(0, 0, 1, 1, 0, 1, count=2)
    assert result.unit.tolist() == [-1, -1, -1, -1, 0, 0, 1, 1, -1, -1, 0, 1]
    assert result.occurrence.tolist() == [-1, -1, -1, -1, 0, 1, 0, 1, -1, -1, 2, 2]


@pytest.mark.parametrize("positions", [(0, 1, 1), (1, 0), (0, -1, 1), (0, 2, 1), (0, 1, 0)])
def test_an_irregular_layout_is_refused_with_its_indices(positions: tuple[int, ...]) -> None:
    result = growth(member(*positions), 1)
    assert isinstance(result, Refusal)
    assert "there is no one place for a new unit" in result.reason


def test_a_dimension_outside_the_group_is_refused() -> None:
    assert isinstance(growth(member(-1, -1), 1), Refusal)


def test_growing_by_nothing_is_an_error() -> None:
    with pytest.raises(UsageError, match="1 unit or more, not by 0"):
        growth(member(0, 1), 0)


def test_selection_keeps_all_indices_of_kept_units_and_everything_outside() -> None:
    assert selection(member(0, 0, 1, 1, -1, 0, 1), [1]).tolist() == [2, 3, 4, 6]


def test_selecting_nothing_is_an_error() -> None:
    with pytest.raises(UsageError, match="at least one"):
        selection(member(0, 1), [])


@given(st.integers(1, 4), st.lists(st.integers(1, 3), min_size=1, max_size=3), st.integers(1, 3))
def test_shrinking_undoes_growing(units: int, repeats: list[int], count: int) -> None:
    positions = [unit for repeat in repeats for unit in np.arange(units).repeat(repeat)]
    runs = growth(member(*positions), count)
    if units == 1 and isinstance(runs, Growth):
        return  # several runs of a single unit cannot be told from one
    assert isinstance(runs, Growth)
    new = np.where(runs.gather < 0, runs.unit + units, np.array(positions)[runs.gather])
    kept = selection(member(*new), range(units))
    assert runs.gather[kept].tolist() == list(range(len(positions)))


def test_a_group_grows_in_all_its_members() -> None:
    group = trace(UNet(), example(image(8))).group_of("up")
    result = group_growth(group, 2)
    assert not isinstance(result, Refusal)
    sizes = {(m.tensor, m.dim): len(g.gather) for m, g in result}
    assert sizes == {("up.weight", 1): 6, ("up.bias", 0): 6, ("merge.weight", 1): 12}


def test_a_pinned_group_refuses_to_grow_and_says_why() -> None:
    group = trace(ResNet(), example(image())).group_of("head")
    result = group_growth(group, 1)
    assert result == Refusal("head.weight dim 0 is pinned (head.weight dim 0: model output)")


def test_a_pinned_group_refuses_to_shrink() -> None:
    group = trace(ResNet(), example(image())).group_of("head")
    assert isinstance(group_selection(group, [0, 1]), Refusal)


def test_selecting_a_unit_that_is_not_there_is_an_error() -> None:
    group = trace(Flattened(channels_last=False), example(image(3))).group_of("conv")
    with pytest.raises(UsageError, match=r"units 0 to 3, not \[4\]"):
        group_selection(group, [0, 4])


def test_a_layer_of_several_kinds_of_units_refuses_to_grow() -> None:
    class Halves(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both, self.right = torch.nn.Linear(3, 6), torch.nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            left, right = self.both(x).split([2, 4], dim=1)
            return self.right(right) * left.sum()

    result = group_growth(trace(Halves(), example(torch.randn(5, 3))).group_of("both"), 1)
    assert isinstance(result, Refusal)
    assert "2 kinds" in result.reason
