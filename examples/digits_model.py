"""A small convolutional network for 8x8 images, and the blueprint by which a log names it."""

from __future__ import annotations

from typing import Final

import torch
from torch import nn

from esper_es import blueprint

NAME: Final = "digits"
"""Of the model in the log."""

BLUEPRINT: Final = "digits-cnn"
START: Final = {"width": 4, "hidden": 16}
"""Arguments of the blueprint for the network that training begins with: 1274 parameters."""


class DigitsNet(nn.Module):
    """Three convolutions and two linear layers.

    Args:
        width: channels of the first convolution; the other two have twice as many.
        hidden: neurons between the pooled channels and the ten classes.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.stem = convolution(1, width)
        self.down = convolution(width, 2 * width, stride=2)
        self.deep = convolution(2 * width, 2 * width)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.hidden = nn.Linear(2 * width, hidden)
        self.classes = nn.Linear(hidden, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images ``(N, 1, 8, 8)`` to logits ``(N, 10)``."""
        features = self.deep(self.down(self.stem(images)))
        pooled = self.pool(features).flatten(1)
        logits: torch.Tensor = self.classes(torch.relu(self.hidden(pooled)))
        return logits


def convolution(incoming: int, outgoing: int, stride: int = 1) -> nn.Sequential:
    """Return a 3x3 convolution that keeps positions (or every second one), batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(incoming, outgoing, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outgoing),
        nn.ReLU(),
    )


@blueprint(BLUEPRINT)
def digits_cnn(width: int, hidden: int) -> DigitsNet:
    """Build the network; a log stores this function's name and arguments, never its code."""
    return DigitsNet(width, hidden)
