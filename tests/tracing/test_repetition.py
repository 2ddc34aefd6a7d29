"""One head of keys and values for all heads of queries (Shazeer 2019): the others come and go, that one stays."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_es.tracing import Trace, trace

from .zoo import example


def as_it_is(keys: Tensor) -> Tensor:
    return keys


def first_silenced(keys: Tensor) -> Tensor:
    keys[:, 0] = 0.0
    return keys


class MultiQuery(nn.Module):
    """Four heads of queries over one of keys and values, which are repeated."""

    def __init__(self, after_repetition: Callable[[Tensor], Tensor] = as_it_is) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(5, 12), nn.Linear(5, 3), nn.Linear(5, 3)
        self.leave = nn.Linear(12, 2)
        self.after_repetition = after_repetition

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q = self.q(x).view(batch, length, -1, 3).transpose(1, 2)
        k = self.k(x)[:, None].expand(batch, q.shape[1], length, 3).contiguous()
        v = self.v(x)[:, None].expand(batch, q.shape[1], length, 3).contiguous()
        heads = F.scaled_dot_product_attention(q, self.after_repetition(k), v)
        return self.leave(heads.transpose(1, 2).flatten(2))


def traced(after_repetition: Callable[[Tensor], Tensor] = as_it_is) -> Trace:
    return trace(MultiQuery(after_repetition), example(torch.randn(2, 6, 5)))


def test_heads_of_queries_come_and_go() -> None:
    group = traced().group_of("q")
    assert (group.free, group.units, group.unit_size) == (True, 4, 3)
    assert {m.tensor for m in group.members} == {"q.weight", "q.bias", "leave.weight"}


@pytest.mark.parametrize("layer", ["k", "v"])
def test_the_one_head_that_serves_all_stays_as_it_is(layer: str) -> None:
    assert not traced().group_of(layer).free


def test_where_the_repeated_head_was_written_into_the_others_are_not_alike() -> None:
    assert traced(first_silenced).group_of("q").units == 1


class Biased(MultiQuery):
    """Scores that get a bias for each head, which nobody learns (ALiBi, Press et al. 2022)."""

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q = self.q(x).view(batch, length, -1, 3).transpose(1, 2)
        biases = torch.randn(1, 4, 1, length)
        heads = F.scaled_dot_product_attention(q, self.k(x)[:, None], self.v(x)[:, None], attn_mask=biases)
        return self.leave(heads.transpose(1, 2).flatten(2))


def test_heads_whose_number_a_bias_fixes_are_still_read_as_heads() -> None:
    group = trace(Biased(), example(torch.randn(2, 6, 5))).group_of("leave", 1)
    assert (group.free, group.units, group.unit_size) == (False, 4, 3)
