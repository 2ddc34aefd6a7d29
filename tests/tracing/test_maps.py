"""Operators on spatial dimensions, and channels whose maps were made place by place."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_es.tracing import trace

from .zoo import example


class Generated(nn.Module):
    """Maps of three channels from a linear layer, then something, then a convolution."""

    def __init__(self, function: Callable[[Tensor], Tensor], blown_up: int = 1) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 3 * 16), nn.Conv2d(3 * blown_up, 2, 1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.function(self.enter(x).view(len(x), -1, 4, 4)))


def affine(x: Tensor) -> Tensor:
    grid = F.affine_grid(torch.eye(2, 3).expand(len(x), 2, 3), [len(x), 1, 4, 4], align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def unpooled(x: Tensor) -> Tensor:
    pooled, places = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(pooled, places, 2)


@pytest.mark.parametrize(
    ("function", "blown_up"),
    [
        (lambda x: F.interpolate(x, scale_factor=2), 1),
        (lambda x: F.max_pool2d(x, 2), 1),
        (affine, 1),
        (unpooled, 1),
        (lambda x: F.pixel_unshuffle(x, 2), 4),
        (lambda x: F.unfold(x, 2, stride=2).unflatten(-1, (2, 2)), 4),
    ],
)
def test_a_channel_comes_and_goes_with_its_map(function: Callable[[Tensor], Tensor], blown_up: int) -> None:
    group = trace(Generated(function, blown_up), example(torch.randn(4, 5))).group_of("enter")
    assert (group.free, group.units, group.unit_size) == (True, 3, 16)


def test_where_to_sample_is_pinned() -> None:
    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.where = nn.Linear(5, 6)

        def forward(self, x: Tensor, image: Tensor) -> Tensor:
            grid = F.affine_grid(self.where(x).view(-1, 2, 3), list(image.shape), align_corners=False)
            return F.grid_sample(image, grid, align_corners=False)

    assert (
        not trace(Transformer(), example(torch.randn(2, 5), torch.randn(2, 3, 4, 4))).group_of("where").free
    )


def test_shuffled_groups_come_and_go_as_groups() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1, groups=3), nn.ChannelShuffle(3), nn.Conv2d(6, 2, 1)
    )
    group = trace(model, example(torch.randn(2, 3, 4, 4))).group_of("1")
    assert (group.free, group.units, group.unit_size) == (True, 3, 2)


class Pooled(nn.Module):
    """Pools the tokens between two layers; the channels lie along the last dimension."""

    def __init__(self, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 6), nn.Linear(6, 2)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.pool(self.enter(x)[:, None]))


@pytest.mark.parametrize(
    ("pool", "free"),
    [
        (lambda x: F.avg_pool2d(x, (2, 1)), True),
        (lambda x: F.avg_pool2d(x, (2, 1), stride=(2, 1), ceil_mode=True), True),
        (lambda x: F.max_pool2d(x, (2, 1), stride=(1, 1)), True),
        (lambda x: F.avg_pool2d(x, (2, 3), stride=(2, 1), padding=(0, 1)), False),
        (lambda x: F.max_pool2d(x, (2, 1), stride=(2, 2)).repeat(1, 1, 1, 2), False),
    ],
)
def test_channels_along_a_dimension_that_a_window_of_one_steps_through_are_left_alone(
    pool: Callable[[Tensor], Tensor], free: bool
) -> None:
    assert trace(Pooled(pool), example(torch.randn(4, 8, 5))).group_of("enter").free is free


def test_the_places_of_maxima_count_the_channels_beside_them() -> None:
    def places(x: Tensor) -> Tensor:
        return F.max_pool2d(x, (2, 1), return_indices=True)[1] * x[:, :, :4]

    assert not trace(Pooled(places), example(torch.randn(4, 8, 5))).group_of("enter").free
