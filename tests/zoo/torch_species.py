"""Models of torch's own layers that surgery finds hard."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
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


class Language(nn.Module):
    """A transformer as most people write it: the width of all heads is that of the stream, in plain code."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width = 3, 12
        self.tokens, self.places = nn.Embedding(50, 12), nn.Parameter(torch.randn(1, 9, 12))
        self.norm, self.qkv, self.project = nn.LayerNorm(12), nn.Linear(12, 36), nn.Linear(12, 12)
        self.mlp = nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12))
        self.last, self.leave = nn.LayerNorm(12), nn.Linear(12, 50)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.places
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm(x)).split(self.width, -1)
        q, k, v = (part.view(b, n, self.heads, c // self.heads).transpose(1, 2) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, n, c)
        x = x + self.project(mixed)
        left: Tensor = self.leave(self.last(x + self.mlp(x)))
        return left


class Messages(nn.Module):
    """A graph network: messages are added up where their edges end."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.message, self.own = nn.Linear(5, 6), nn.Linear(6, 7), nn.Linear(6, 7)
        self.middle, self.leave = nn.Linear(7, 7), nn.Linear(7, 2)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x = torch.relu(self.enter(x))
        sent = self.message(x)[edges[0]]
        total = sent.new_zeros(len(x), sent.shape[1]).index_add(0, edges[1], sent)
        left: Tensor = self.leave(torch.relu(self.middle(torch.relu(total + self.own(x)))))
        return left


def graph() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 5), torch.randint(0, 6, (2, 14))


def sequences() -> tuple[Tensor]:
    return (torch.randn(2, 7, 5),)


def rows() -> tuple[Tensor]:
    return (torch.randn(4, 3).abs(),)


for made in (UNet, Chunked, GroupedConvs, Recurrent, Encoding, SharedTwice, Branching, Language, Messages):
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
    Species(
        "plain transformer",
        Language,
        lambda: (torch.randint(1, 49, (2, 9)),),
        ("mlp", linear(12)),
        "mlp",
        ("tokens", "mlp"),
        blueprint="zoo-language",
    ),
    Species(
        "graph network",
        Messages,
        graph,
        ("enter", linear(6)),
        "middle",
        ("own", "middle"),
        blueprint="zoo-messages",
    ),
)
