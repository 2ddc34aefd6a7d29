"""Buffers that are parameters in all but training, or that are added, come and go with the channels they belong to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_es.tracing import WidthGroup, trace

from .zoo import example


class FrozenNorm(nn.Module):
    """A BatchNorm whose numbers are all buffers."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(3, 6), nn.Linear(6, 2)
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(6))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        return self.after(self.before(x) * scale + (self.bias - self.running_mean * scale))


class KeysWithoutBias(nn.Module):
    """Packed queries, keys and values; zeros stand for the bias of the keys."""

    k_bias: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.packed = nn.Linear(3, 18, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(6))
        self.register_buffer("k_bias", torch.zeros(6), persistent=False)
        self.after = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, self.k_bias, self.v_bias])
        q, k, v = F.linear(x, self.packed.weight, bias).view(*x.shape[:-1], 3, 2, 3).unbind(-3)
        weights = (q.transpose(1, 2) @ k.transpose(1, 2).transpose(-1, -2)).softmax(-1)
        return self.after((weights @ v.transpose(1, 2)).transpose(1, 2).flatten(2))


class Table(nn.Module):
    """Uses a buffer whose name says nothing."""

    table: Tensor

    def __init__(self, use: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.use = use
        self.before, self.after = nn.Linear(3, 6), nn.Linear(6, 2)
        self.register_buffer("table", torch.rand(1, 9, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.use(self.before(x), self.table))


def written_over(x: Tensor, table: Tensor) -> Tensor:
    table[:, : x.shape[1]] = x.flip(2)[:1]
    return x + table[:, : x.shape[1]]


def table_group(use: Callable[[Tensor, Tensor], Tensor]) -> WidthGroup:
    return trace(Table(use), example(torch.randn(2, 4, 3))).group_of("before")


def test_the_buffers_of_a_frozen_norm_belong_to_its_channels() -> None:
    group = trace(FrozenNorm(), example(torch.randn(4, 3))).group_of("before")
    buffers = {m.tensor: m.role for m in group.members if "." not in m.tensor}
    assert buffers == {
        "weight": "affine",
        "bias": "producer",
        "running_mean": "statistic",
        "running_var": "statistic",
    }


def test_zeros_in_place_of_a_bias_come_and_go_with_the_heads() -> None:
    group = trace(KeysWithoutBias(), example(torch.randn(2, 4, 3))).group_of("packed")
    member = group.member("k_bias", 0)
    assert (group.free, group.units, member is not None) == (True, 2, True)


def test_a_buffer_that_is_added_comes_and_goes_with_what_it_is_added_to() -> None:
    group = table_group(lambda x, table: x + table[:, : x.shape[1]])
    member = group.member("table", 2)
    assert group.free
    assert member is not None
    assert member.role == "table"


@pytest.mark.parametrize(
    "use",
    [
        lambda x, table: x * table[:, :4],
        lambda x, table: x + table[:, :4].sin(),
        lambda x, table: x + table[:, :4] @ torch.rand(6, 6),
        written_over,
    ],
    ids=["factor", "sine", "product", "written"],
)
def test_a_buffer_of_which_anything_else_is_made_fixes_what_it_meets(
    use: Callable[[Tensor, Tensor], Tensor],
) -> None:
    pins = table_group(use).pins
    assert {pin.reason.rpartition(" ")[0] for pin in pins} == {"meets a tensor without channels in"}


class Measured(nn.Module):
    """Divides the weight of a convolution by what a vector in a buffer makes of it."""

    vector: Tensor

    def __init__(self, kernel_first: bool) -> None:
        super().__init__()
        self.before, self.weight = nn.Conv2d(3, 6, 1), nn.Parameter(torch.randn(4, 6, 3, 3))
        self.after = nn.Conv2d(4, 2, 1)
        self.order = (0, 2, 3, 1) if kernel_first else (0, 1, 2, 3)
        self.register_buffer("vector", torch.randn(54))

    def forward(self, x: Tensor) -> Tensor:
        size = torch.mv(self.weight.permute(self.order).flatten(1), self.vector).sum()
        return self.after(F.conv2d(self.before(x), self.weight / size))


@pytest.mark.parametrize(
    ("kernel_first", "expected"),
    [(False, [unit for unit in range(6) for _ in range(9)]), (True, list(range(6)) * 9)],
)
def test_a_vector_that_measures_a_weight_follows_its_channels_past_the_places_of_the_kernel(
    kernel_first: bool, expected: list[int]
) -> None:
    member = (
        trace(Measured(kernel_first), example(torch.randn(2, 3, 5, 5))).group_of("before").member("vector", 0)
    )
    assert member is not None
    assert member.positions.tolist() == expected


class Combined(nn.Module):
    """Products of a buffer and an activation, which nobody could lengthen by entries that learn."""

    vector: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(3, 6)
        self.register_buffer("vector", torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.mv(self.before(x), self.vector)


def test_a_vector_that_reads_activations_is_one_of_which_nothing_is_known() -> None:
    group = trace(Combined(), example(torch.randn(4, 3))).group_of("before")
    assert [pin.reason for pin in group.pins] == ["meets a tensor without channels in aten.mv"]


class Blurred(nn.Module):
    """Blurs each channel by itself, by filters in a buffer."""

    filters: Tensor

    def __init__(self, filters: Tensor) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        return self.after(F.conv2d(x, self.filters, groups=x.shape[1]))


def test_one_filter_for_all_channels_goes_with_them() -> None:
    model = Blurred(torch.rand(1, 1, 3, 3).repeat(6, 1, 1, 1))
    member = trace(model, example(torch.randn(2, 3, 5, 5))).group_of("before").member("filters", 0)
    assert member is not None
    assert member.role == "repeated"


def test_filters_of_their_own_stay_with_their_channels() -> None:
    group = trace(Blurred(torch.rand(6, 1, 3, 3)), example(torch.randn(2, 3, 5, 5))).group_of("before")
    assert [pin.reason for pin in group.pins] == ["meets a tensor without channels in aten.convolution"]
