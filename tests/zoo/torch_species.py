"""Models of torch's own layers that surgery finds hard."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from tracing.zoo import Branching, Chunked, GroupedConvs, SharedTwice, UNet

from esper_es import blueprint

from .species import Species, conv, images, linear


class Recurrent(nn.Module):
    """Two layers of LSTM in both directions: four gates to a unit, and the directions concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(5, 6)
        self.lstm = nn.LSTM(6, 7, num_layers=2, bidirectional=True, batch_first=True)
        self.middle = nn.Linear(14, 10)
        self.leave = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.lstm(torch.tanh(self.enter(x)))
        left: Tensor = self.leave(torch.relu(self.middle(hidden)))
        return left


class Encoding(nn.Module):
    """torch's own encoder, which in evaluation takes a fast path around its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(5, 12)
        layer = nn.TransformerEncoderLayer(12, 3, dim_feedforward=20, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.leave = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        left: Tensor = self.leave(self.encoder(self.enter(x)))
        return left


def sequences() -> tuple[Tensor]:
    return (torch.randn(2, 7, 5),)


def rows() -> tuple[Tensor]:
    return (torch.randn(4, 3).abs(),)


for made in (UNet, Chunked, GroupedConvs, Recurrent, Encoding, SharedTwice, Branching):
    blueprint(f"zoo-{made.__name__.lower()}")(made)

TORCH = (
    Species("U-Net", UNet, images, ("enter", conv(6)), "enter", ("enter", "leave"), blueprint="zoo-unet"),
    Species(
        "C2f",
        Chunked,
        images,
        ("steps.0", conv(4)),
        "steps.1",
        ("steps.0", "steps.1"),
        blueprint="zoo-chunked",
    ),
    Species(
        "grouped convolutions",
        GroupedConvs,
        images,
        ("project", conv(12)),
        "depthwise",
        ("expand", "depthwise"),
        blueprint="zoo-groupedconvs",
    ),
    Species(
        "LSTM",
        Recurrent,
        sequences,
        ("enter", linear(6)),
        "middle",
        ("enter", "leave"),
        blueprint="zoo-recurrent",
    ),
    Species(
        "TransformerEncoder",
        Encoding,
        sequences,
        ("encoder.layers.0", linear(12)),
        "encoder.layers.1",
        ("encoder.layers.0", "encoder.layers.1"),
        blueprint="zoo-encoding",
    ),
    Species(
        "shared layer",
        SharedTwice,
        rows,
        ("enter", linear(6)),
        "enter",
        ("enter", "leave"),
        blueprint="zoo-sharedtwice",
    ),
    Species(
        "branches",
        Branching,
        rows,
        ("enter", linear(6)),
        "enter",
        ("enter", "positive"),
        blueprint="zoo-branching",
    ),
)
