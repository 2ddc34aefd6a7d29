"""Channels taken for one unit, and whether the trace of a model with several of them agrees."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from esper_es.tracing import Trace, WidthGroup, as_whole, growth, misread, readings, trace


class Packed(nn.Module):
    """Attention over packed queries, keys and values."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(5, 12 * heads), nn.Linear(4 * heads, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, 4)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        mixed = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


def traced(heads: int) -> Trace:
    model = nn.Sequential(nn.Linear(4, 5), Packed(heads), nn.Linear(3, 2))
    return trace(model, [((torch.randn(2, 6, 4),), {})])


def whole(found: Trace) -> WidthGroup:
    group = found.group_of("1.qkv")
    taken = as_whole(found, group.tensor, group.dim, next(iter(readings(found, group))))
    assert taken is not None
    return taken


def expected(group: WidthGroup) -> dict[tuple[str, int], np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
    found = {}
    for member in group.members:
        grown = growth(member, 1)
        found[member.tensor, member.dim] = np.where(grown.gather < 0, 1, 0)  # type: ignore[union-attr]
    return found


def test_one_head_is_all_channels_that_are_bound_to_nothing_outside_of_its_module() -> None:
    group = whole(traced(1))
    assert (group.units, group.size, group.free) == (1, 12, True)
    assert {(m.tensor, m.dim) for m in group.members} == {
        ("1.qkv.weight", 0),
        ("1.qkv.bias", 0),
        ("1.out.weight", 1),
    }


def test_parts_that_stand_side_by_side_grow_each_by_itself() -> None:
    member = whole(traced(1)).members[0]
    assert member.parts == (4, 8, 12)
    grown = growth(member, 1)
    assert grown.gather.tolist() == [  # type: ignore[union-attr]
        *range(4), *[-1] * 4, *range(4, 8), *[-1] * 4, *range(8, 12), *[-1] * 4,
    ]  # fmt: skip


def test_a_model_with_two_heads_agrees() -> None:
    group = whole(traced(1))
    assert list(misread(traced(2), group, expected(group))) == []


def test_a_model_that_takes_the_channels_of_two_heads_for_one_disagrees() -> None:
    group = whole(traced(1))
    wider = nn.Sequential(nn.Linear(4, 5), Packed(2), nn.Linear(3, 2))
    wider[1].forward = lambda x: wider[1].out(wider[1].qkv(x).chunk(3, -1)[2])  # type: ignore[method-assign]
    after = trace(wider, [((torch.randn(2, 6, 4),), {})])
    assert any(
        "not made of such units" in told or "kinds" in told for told in misread(after, group, expected(group))
    )


def test_a_second_head_appended_behind_all_parts_is_told() -> None:
    group = whole(traced(1))
    wrong = expected(group) | {("1.qkv.weight", 0): np.arange(24) // 12}
    assert any("1.qkv.weight dim 0 is not made" in told for told in misread(traced(2), group, wrong))
