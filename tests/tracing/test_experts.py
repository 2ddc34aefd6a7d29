"""Mixtures of experts: channels pass the stack of experts, and the experts themselves stay as they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from esper_es.tracing import Trace, trace

from .zoo import example


class Experts(nn.Module):
    """Each token goes to two of three experts, whose matrices lie in one stack."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(5, 8)
        self.gate = nn.Linear(8, 3)
        self.up = nn.Parameter(torch.randn(3, 12, 8))
        self.down = nn.Parameter(torch.randn(3, 8, 12))
        self.leave = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.enter(x))
        share, chosen = torch.topk(self.gate(x).softmax(-1), 2, dim=-1)
        expert, order = torch.sort(chosen.reshape(-1))
        ends = torch.histc(expert.float(), 3, 0, 2).cumsum(0, dtype=torch.int32)
        rows = torch._grouped_mm(x[order // 2], self.up.transpose(-2, -1), offs=ends)
        rows = torch._grouped_mm(torch.relu(rows), self.down.transpose(-2, -1), offs=ends)
        rows = rows * share.reshape(-1)[order][:, None]
        return self.leave(x + rows[torch.argsort(order)].view(len(x), 2, -1).sum(1))


class Picked(nn.Module):
    """Scores are read by position, all channels alike."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(3, 6)
        self.after = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.before(x)
        return self.after(rows.gather(0, torch.tensor([[1], [0]]).expand(2, rows.shape[1])))


def traced() -> Trace:
    return trace(Experts(), example(torch.randn(7, 5)))


def members(found: Trace, tensor: str, dim: int) -> set[tuple[str, int]]:
    return {(member.tensor, member.dim) for member in found.group_of(tensor, dim).members}


def test_the_inner_channels_of_all_experts_come_and_go_together() -> None:
    group = traced().group_of("up", 1)
    assert group.free
    assert {(m.tensor, m.dim, m.role) for m in group.members} == {
        ("up", 1, "producer"),
        ("down", 2, "consumer"),
    }


def test_the_channels_around_the_experts_are_those_that_all_of_them_read_and_write() -> None:
    found = traced()
    assert members(found, "up", 2) >= {
        ("enter.weight", 0),
        ("down", 1),
        ("gate.weight", 1),
        ("leave.weight", 1),
    }
    assert found.group_of("up", 2).free


def test_the_number_of_experts_is_pinned_where_they_are_ranked() -> None:
    assert {pin.reason for pin in traced().group_of("gate").pins} == {"is ranked by value in aten.topk"}


def test_the_stack_of_experts_is_pinned() -> None:
    assert {pin.reason for pin in traced().group_of("up", 0).pins} == {
        "is chosen by its index in aten._grouped_mm"
    }


def test_channels_beside_a_gathered_dimension_carry_on() -> None:
    group = trace(Picked(), example(torch.randn(2, 3))).group_of("before")
    assert group.free
    assert ("after.weight", 1) in {(member.tensor, member.dim) for member in group.members}


def test_channels_along_a_gathered_dimension_are_pinned() -> None:
    class Along(Picked):
        def forward(self, x: Tensor) -> Tensor:
            rows = self.before(x)
            return self.after(rows.gather(1, torch.arange(5, -1, -1).expand(len(rows), 6)))

    pins = trace(Along(), example(torch.randn(2, 3))).group_of("before").pins
    assert "is looked up by index in aten.gather" in {pin.reason for pin in pins}


def test_a_tensor_made_like_another_says_nothing_of_its_channels() -> None:
    class Masked(Picked):
        def forward(self, x: Tensor) -> Tensor:
            rows = self.before(x)
            return self.after(rows * rows.new_ones(len(rows), 1))

    assert trace(Masked(), example(torch.randn(2, 3))).group_of("before").free
