from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from esper_es.tracing import trace

from .zoo import Branching, Flattened, Opaque, ResNet, example, image


class Between(nn.Module):
    """Two linear layers with something between."""

    def __init__(self, function: Callable[[Tensor], Tensor], width: int = 6) -> None:
        super().__init__()
        self.before = nn.Linear(3, width)
        self.function = function
        self.after = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.function(self.before(x)))


def reasons(model: nn.Module, layer: str, *args: Any, dim: int | None = None) -> set[str]:
    return {pin.reason for pin in trace(model, example(*args)).group_of(layer, dim).pins}


def between(function: Callable[[Tensor], Tensor], width: int = 6) -> set[str]:
    return reasons(Between(function, width), "before", torch.randn(4, 3))


def test_the_model_output_is_pinned() -> None:
    assert reasons(ResNet(), "head", image()) == {"model output"}


def test_the_columns_that_read_the_model_input_are_pinned() -> None:
    assert reasons(ResNet(), "stem.0", image(), dim=1) == {"meets the model input in aten.convolution"}


def test_a_nested_model_output_is_pinned() -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 4), nn.Linear(3, 5)

        def forward(self, x: Tensor) -> dict[str, Any]:
            return {"first": self.one(x), "rest": (None, [self.two(x)])}

    assert reasons(Several(), "two", torch.randn(4, 3)) == {"model output"}


def test_an_operator_without_a_rule_pins_with_its_name() -> None:
    assert reasons(Opaque(), "before", torch.randn(4, 3)) == {"aten.sort.default has no rule"}


def test_what_follows_an_operator_without_a_rule_is_pinned_where_it_is_read() -> None:
    expected = {"meets a tensor without channels in aten.linear"}
    assert reasons(Opaque(), "inner", torch.randn(4, 3), dim=1) == expected


@pytest.fixture
def custom_operator() -> Iterator[str]:
    library = torch.library.Library("esper_test", "DEF")
    library.define("twist(Tensor x) -> Tensor")
    library.impl("twist", lambda x: x.flip(-1), "CPU")
    yield "esper_test.twist.default"
    library._destroy()


def test_a_custom_operator_without_a_rule_pins_with_its_name(custom_operator: str) -> None:
    assert between(lambda x: torch.ops.esper_test.twist(x)) == {f"{custom_operator} has no rule"}


def test_a_constant_table_pins_the_channels_it_meets() -> None:
    assert between(lambda x: x * torch.arange(6)) == {"meets a tensor without channels in aten.mul"}


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * 2,
        lambda x: x + torch.zeros(6),
        lambda x: x + torch.arange(4)[:, None],
        lambda x: x / x.norm(dim=-1, keepdim=True),
        lambda x: torch.nn.functional.normalize(x, dim=-1),
        lambda x: torch.where(x > 0, x, -x),
        lambda x: torch.cat([x.chunk(2, -1)[0], x.chunk(2, -1)[1]], -1),
        lambda x: torch.zeros_like(x).copy_(x),
        lambda x: x.clone().masked_fill_(x > 0, 1.0),
    ],
)
def test_operands_without_channels_of_their_own_pin_nothing(function: Callable[[Tensor], Tensor]) -> None:
    assert between(function) == set()


def test_writing_into_a_part_of_a_blank_tensor_pins_what_is_written() -> None:
    def padded(x: Tensor) -> Tensor:
        blank = torch.zeros(len(x), 6)
        blank[:, :6] = x
        return blank

    assert between(padded) == {"meets a tensor without channels in aten.copy_"}


def test_a_blank_tensor_that_was_written_to_is_no_longer_taken_for_blank() -> None:
    def shifted(x: Tensor) -> Tensor:
        blank = torch.zeros(len(x), 6)
        blank[:, 2:3] = 1.0
        return x + blank

    assert between(shifted) == {"meets a tensor without channels in aten.add"}


def test_picking_a_channel_by_its_index_pins_it() -> None:
    assert between(lambda x: x + x[:, 2:3] * 0 + x[:, 4].unsqueeze(1)) >= {
        "is picked by its index in aten.select"
    }


def test_a_channel_of_which_only_the_shape_is_asked_is_not_pinned() -> None:
    assert between(lambda x: x + torch.zeros(x[:, -1].shape[0], 1)) == set()


def test_a_single_channel_broadcast_over_many_is_pinned() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.body, self.leave = nn.Linear(3, 1), nn.Linear(3, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.leave(torch.sigmoid(self.gate(x)) * self.body(x))

    assert reasons(Gate(), "gate", torch.randn(4, 3)) == {"its only channel is broadcast in aten.mul"}
    assert reasons(Gate(), "body", torch.randn(4, 3)) == set()


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: torch.from_numpy(x.numpy()), "leaves torch through Tensor.numpy"),
        (lambda x: torch.tensor(x.tolist()), "leaves torch through Tensor.tolist"),
        (lambda x: torch.tensor(np.asarray(x)), "leaves torch through Tensor.__array__"),
        (lambda x: x * x[0, 0].item(), "is picked by its index in aten.select"),
    ],
)
def test_values_that_leave_the_operators_of_torch_pin_their_channels(
    function: Callable[[Tensor], Tensor], reason: str
) -> None:
    assert reason in between(function)


def test_writing_into_a_blank_tensor_past_the_operators_of_torch_is_noticed() -> None:
    def masked(x: Tensor) -> Tensor:
        mask = torch.zeros(6)
        mask.numpy()[2] = 1.0
        return x + mask

    assert between(masked) == {"meets a tensor without channels in aten.add"}


def test_channels_that_arrive_nowhere_are_pinned() -> None:
    expected = {"makes channels that are read nowhere in sight"}
    assert between(lambda x: nn.Parameter(x)) == expected


def test_a_result_that_the_model_does_not_use_is_pinned() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(3, 4), nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            self.idle(x)
            return self.used(x)

    assert reasons(Idle(), "idle", torch.randn(4, 3)) == {"makes channels that are read nowhere in sight"}


def test_channels_that_only_meet_each_other_in_a_product_have_arrived() -> None:
    class Similarity(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(5, 4), nn.Linear(5, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.left(x) @ self.right(x).transpose(1, 2)

    assert reasons(Similarity(), "left", torch.randn(2, 3, 5)) == set()


def test_choosing_elements_by_their_value_pins_them() -> None:
    assert between(lambda x: x + x[x > 100].sum()) == {"is chosen by value in aten.index"}


def test_a_part_without_channels_in_a_concatenation_pins_only_its_own_columns() -> None:
    class WithInput(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(3, 4), nn.Linear(7, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.leave(torch.cat([self.enter(x), x], dim=1))

    trace_ = trace(WithInput(), example(torch.randn(5, 3)))
    assert trace_.group_of("enter").free
    assert {pin.reason for pin in trace_.group_of("leave", dim=1).pins} == {
        "meets a tensor without channels in aten.linear"
    }


def test_padding_between_channels_pins_the_columns_that_read_it() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(3, 4), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.leave(torch.nn.functional.pad(self.enter(x), (0, 2)))

    trace_ = trace(Padded(), example(torch.randn(5, 3)))
    assert trace_.group_of("enter").free
    assert not trace_.group_of("leave", dim=1).free


def test_restriding_that_moves_elements_pins_them() -> None:
    assert between(lambda x: x.as_strided((4, 6), (1, 4))) == {"is restrided by aten.as_strided"}


def test_a_sparse_constant_pins_the_channels_it_is_multiplied_with() -> None:
    sparse = torch.eye(6).to_sparse()
    assert between(lambda x: torch.mm(sparse, x.t()).t()) != set()


def test_a_single_channel_flattened_away_is_pinned() -> None:
    model = nn.Sequential(nn.Conv2d(3, 1, 1), nn.Flatten(), nn.Linear(9, 2))
    assert reasons(model, "0", image(3)) == set()
    assert reasons(Flattened(channels_last=True, channels=1), "conv", image(3)) == {
        "its only channel loses its dimension in aten.view"
    }


def test_an_uneven_chunk_is_pinned() -> None:
    reason = "is cut into uneven parts by aten.split"
    assert between(lambda x: torch.cat(x.split(3, dim=1)[::-1], dim=1), width=7) == {reason}


def test_parameters_of_a_branch_that_did_not_run_are_named_and_pinned() -> None:
    trace_ = trace(Branching(), example(torch.ones(4, 3)))
    assert trace_.unexecuted_parameters == ("negative.weight", "negative.bias")
    assert {pin.reason for pin in trace_.group_of("negative").pins} == {
        "was executed by no example (add one that reaches it)"
    }


def test_several_examples_unite_what_each_of_them_shows() -> None:
    trace_ = trace(Branching(), [*example(torch.ones(4, 3)), *example(-torch.ones(4, 3))])
    assert trace_.unexecuted_parameters == ()
    group = trace_.group_of("enter")
    assert {m.tensor for m in group.members if m.role == "consumer"} == {"positive.weight", "negative.weight"}


def test_distinct_parameters_that_share_memory_are_pinned() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    model[1].weight.data = model[0].weight.data
    reason = "shares its memory with 0.weight"
    assert reason in reasons(model, "1", torch.randn(3, 4))


class Reused(nn.Module):
    """Adds zeros whose memory something else may have written to before."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 8)
        self.leave = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for _ in range(10):
            junk = torch.empty(len(x), 8)
            junk[0] = 1.0
            del junk
            x = x + torch.zeros(len(x), 8)
        left: Tensor = self.leave(x)
        return left


def test_zeros_in_memory_that_was_written_before_pin_nothing() -> None:
    assert trace(Reused(), example(torch.randn(4, 6))).group_of("enter").free


def test_the_place_of_a_class_token_does_not_join_the_channels() -> None:
    class Token(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.leave = nn.Parameter(torch.randn(1, 1, 6)), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.leave(torch.cat([self.token.expand(len(x), 1, 6), x], 1)[:, :1].reshape(len(x), 6))

    assert trace(Token(), example(torch.randn(4, 3, 6))).group_of("token", 2).units == 6
