"""Joining tensors of other shapes: what a skip connection adds to the output that it ends in."""

from __future__ import annotations

from math import prod

import torch
from torch import nn
from torch.nn import functional as F


class Fusion(nn.Module):
    """Brings a tensor to the positions of another, and projects it, or both side by side, to what is added to that.

    Added to ``x``, ``projection(cat([x, taken]))`` is what a projection ``[I + W1 | W2]`` makes of the two side by
    side, where ``projection`` is ``[W1 | W2]``. While that is zero, ``x`` stays bit by bit, under autocast and in
    reduced precision too, which an identity matrix would not.

    Args:
        both: whether the projection sees ``x`` too.
        channels: dimension of the channels of ``x``, 1 or -1.
        taken_channels: the same of the other tensor.

    The child ``projection`` maps channels position by position.
    """

    projection: nn.Module

    def __init__(self, both: bool, channels: int, taken_channels: int) -> None:
        super().__init__()
        self.both = both
        self.channels = channels
        self.taken_channels = taken_channels

    def forward(self, x: torch.Tensor, taken: torch.Tensor) -> torch.Tensor:
        seen = at_positions_of(x, taken, self.channels, self.taken_channels)
        if self.both:
            seen = torch.cat([x, seen], self.channels)
        result: torch.Tensor = self.projection(seen)
        return result


def at_positions_of(x: torch.Tensor, taken: torch.Tensor, channels: int, taken_channels: int) -> torch.Tensor:
    """Return a tensor with its channels where ``x`` has them and one entry for each position of ``x``.

    Positions are averaged where ``x`` has none, repeated where the tensor has none, unrolled row by row where only
    their arrangement differs, and otherwise those nearest.

    Args:
        x: ``(N, C, *positions)`` or ``(N, *positions, C)``.
        taken: alike, with other channels and positions.
        channels: dimension of the channels of ``x``, 1 or -1.
        taken_channels: the same of ``taken``.
    """
    wanted = x.movedim(channels, -1).shape[1:-1]
    last = taken.movedim(taken_channels, -1)
    found = last.shape[1:-1]
    if found != wanted:
        if not wanted:
            last = last.flatten(1, -2).mean(1)
        elif not found:
            last = last.reshape(last.shape[0], *(1 for _ in wanted), last.shape[-1])
            last = last.expand(-1, *wanted, -1)
        elif len(found) != len(wanted) and prod(found) == prod(wanted):
            last = last.reshape(last.shape[0], *wanted, last.shape[-1])
        else:
            last = F.interpolate(last.movedim(-1, 1), wanted, mode="nearest").movedim(1, -1)
    return last.movedim(-1, channels)
