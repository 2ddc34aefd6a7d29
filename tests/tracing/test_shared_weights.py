"""One weight for several units: a norm that all heads have in common."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_es.tracing import trace

from .zoo import Attention, example, sequence


class NormedHeads(Attention):
    """Queries and keys pass a norm over the channels of their head, with one weight for all heads."""

    def __init__(self) -> None:
        super().__init__()
        self.q_norm, self.k_norm = nn.RMSNorm(self.head), nn.RMSNorm(self.head)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        q, k = self.q_norm(self.split(self.q(x))), self.k_norm(self.split(self.k(x)))
        mixed = F.scaled_dot_product_attention(q, k, self.split(self.v(x)))
        return self.leave(x + self.o(mixed.transpose(1, 2).flatten(2)))


class ScaledHalves(nn.Module):
    """One vector scales both halves."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(3, 2 * 5)
        self.scale = nn.Parameter(torch.randn(5))
        self.after = nn.Linear(2 * 5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.after((self.before(x).view(-1, 2, len(self.scale)) * self.scale).flatten(1))


def test_heads_come_and_go_without_the_norm_that_they_share() -> None:
    group = trace(NormedHeads(), example(sequence())).group_of("q")
    assert (group.free, group.units, group.unit_size) == (True, 3, 4)
    assert {"q.weight", "k.weight", "v.weight", "o.weight"} <= {member.tensor for member in group.members}
    assert "q_norm.weight" not in {member.tensor for member in group.members}


def test_the_norm_that_heads_share_stays_as_wide_as_a_head() -> None:
    pins = trace(NormedHeads(), example(sequence())).group_of("q_norm").pins
    assert {pin.reason for pin in pins} == {"is shared by several units in aten.mul"}


def test_channels_that_share_an_entry_of_a_vector_come_and_go_with_it() -> None:
    group = trace(ScaledHalves(), example(torch.randn(2, 3))).group_of("before")
    assert (group.free, group.units, group.unit_size) == (True, 5, 2)
    assert "scale" in {member.tensor for member in group.members}
