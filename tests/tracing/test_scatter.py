"""Writing by index: channels along other dimensions meet, those along the indexed one keep their places."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from esper_es.tracing import WidthGroup, trace

from .zoo import example

TO = torch.tensor([0, 2, 2, 1])


class Messages(nn.Module):
    """Rows of one layer are written into those of another by ``write``."""

    def __init__(self, write: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.nodes, self.edges, self.leave = nn.Linear(3, 6), nn.Linear(3, 6), nn.Linear(6, 2)
        self.write = write

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.write(self.nodes(x), self.edges(x)))


def group(write: Callable[[Tensor, Tensor], Tensor], layer: str = "edges") -> WidthGroup:
    return trace(Messages(write), example(torch.randn(4, 3))).group_of(layer)


def index_put(nodes: Tensor, edges: Tensor) -> Tensor:
    nodes[TO] = edges
    return nodes


WRITES = [
    lambda nodes, edges: nodes.index_add(0, TO, edges),
    lambda nodes, edges: nodes.index_copy(0, TO, edges),
    lambda nodes, edges: nodes.scatter_add(0, TO[:, None].expand_as(edges), edges),
    lambda nodes, edges: nodes.scatter_reduce(0, TO[:, None].expand_as(edges), edges, "amax"),
    lambda nodes, edges: nodes.index_put((TO,), edges, accumulate=True),
    index_put,
]


@pytest.mark.parametrize("write", WRITES)
def test_what_is_written_by_row_has_the_channels_of_what_it_is_written_into(
    write: Callable[[Tensor, Tensor], Tensor],
) -> None:
    found = group(write)
    assert found.free
    assert {m.tensor for m in found.members} >= {"nodes.weight", "edges.weight", "leave.weight"}


@pytest.mark.parametrize(
    "write",
    [
        lambda nodes, edges: nodes.index_add(1, torch.arange(6), edges),
        lambda nodes, edges: nodes.scatter_add(1, torch.zeros(4, 6, dtype=torch.long), edges),
        lambda nodes, edges: nodes.index_put((torch.arange(4), torch.arange(4)), edges.sum()),
    ],
)
def test_channels_that_are_written_by_index_keep_their_places(
    write: Callable[[Tensor, Tensor], Tensor],
) -> None:
    assert not group(write, "nodes").free


def test_an_index_that_is_made_anew_for_every_channel_pins_them() -> None:
    index = TO[:, None].repeat(1, 6)
    assert not group(lambda nodes, edges: nodes.scatter_add(0, index, edges)).free


def test_zeros_take_the_channels_of_what_is_added_to_them() -> None:
    assert group(lambda nodes, edges: torch.zeros(4, edges.shape[1]).index_add_(0, TO, edges) + nodes).free


def test_what_is_added_to_a_part_of_zeros_is_lost_sight_of() -> None:
    def write(nodes: Tensor, edges: Tensor) -> Tensor:
        rows = torch.zeros(8, edges.shape[1])
        rows[:4].index_add_(0, TO, edges)
        return rows[:4]

    assert not group(write).free
