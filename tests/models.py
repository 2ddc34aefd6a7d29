"""Small models for the tests of the engine, each with what it takes to run and to rebuild it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.nn import functional as F

from esper_es import blueprint


def nested_mlp() -> nn.Sequential:
    """Linear layers and a LayerNorm, one container inside another."""
    return nn.Sequential(
        nn.Linear(6, 8),
        nn.ReLU(),
        nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU()),
        nn.Linear(8, 3),
    )


def nested_cnn() -> nn.Sequential:
    """Conv2d with BatchNorm and with GroupNorm."""
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(6, 4, 3, padding=1, bias=False), nn.GroupNorm(2, 4), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


def conv1d_net() -> nn.Sequential:
    """Conv1d with BatchNorm, under Dropout: training draws random numbers."""
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, padding=1),
        nn.BatchNorm1d(4),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Conv1d(4, 4, 3, padding=1),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


class CustomMLP(nn.Module):
    """Layers that only its own ``forward`` knows the order of."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.enter = nn.Linear(6, width)
        self.middle = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.enter(x))
        x = torch.relu(self.norm(self.middle(x)))
        left: Tensor = self.leave(x)
        return left


class ConvNet(nn.Module):
    """The plan's model: named convolutions under a custom ``forward``."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv3 = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv1(x))
        x = torch.relu(self.conv2(x))
        x = torch.relu(self.conv3(x))
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


class ResidualBlock(nn.Module):
    """He et al. 2016, with a 1x1 convolution in the shortcut where shapes differ."""

    def __init__(self, incoming: int, outgoing: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(incoming, outgoing, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outgoing)
        self.conv2 = nn.Conv2d(outgoing, outgoing, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outgoing)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or incoming != outgoing:
            self.downsample = nn.Sequential(
                nn.Conv2d(incoming, outgoing, 1, stride, bias=False), nn.BatchNorm2d(outgoing)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.downsample(x))


class ResNet(nn.Module):
    """A stem, two residual blocks, a classifier."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.Sequential(ResidualBlock(width, width), ResidualBlock(width, 2 * width, 2))
        self.head = nn.Linear(2 * width, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
        return scores


class GroupedNet(nn.Module):
    """A grouped and a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(2, 4, 1)
        self.grouped = nn.Conv2d(4, 8, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pointwise = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.grouped(self.enter(x)))
        x = torch.relu(self.pointwise(self.depthwise(x)))
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


class TiedNet(nn.Module):
    """One weight used by two layers, one layer called in two places, and a buffer left out of the state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(6, 6, bias=False)
        self.decode = nn.Linear(6, 6, bias=False)
        self.decode.weight = self.encode.weight
        self.shared = nn.Linear(6, 6)
        self.again = self.shared
        self.leave = nn.Linear(6, 3)
        self.register_buffer("scale", torch.full((), 0.5), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.shared(self.encode(x)))
        x = torch.relu(self.again(self.decode(x) * self.scale))
        left: Tensor = self.leave(x)
        return left


blueprint("tests/custom-mlp")(CustomMLP)
blueprint("tests/conv-net")(ConvNet)
blueprint("tests/resnet")(ResNet)
blueprint("tests/grouped-net")(GroupedNet)
blueprint("tests/tied-net")(TiedNet)


@frozen
class Zoolet:
    """A model of the zoo.

    Attributes:
        name: of it, for the ids of tests.
        build: makes one; its weights depend on torch's ambient generator.
        shape: of one input, without the batch.
        blueprint: name of its blueprint; None when it is made of known layers only.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    blueprint: str | None = None

    def batch(self, size: int = 4) -> Tensor:
        """Return inputs, drawn from torch's ambient generator."""
        return torch.randn(size, *self.shape)


NESTED_MLP = Zoolet("nested-mlp", nested_mlp, (6,))
NESTED_CNN = Zoolet("nested-cnn", nested_cnn, (2, 6, 6))
CONV1D_NET = Zoolet("conv1d-net", conv1d_net, (2, 8))
CUSTOM_MLP = Zoolet("custom-mlp", CustomMLP, (6,), "tests/custom-mlp")
CONV_NET = Zoolet("conv-net", ConvNet, (3, 8, 8), "tests/conv-net")
RESNET = Zoolet("resnet", ResNet, (2, 8, 8), "tests/resnet")
GROUPED_NET = Zoolet("grouped-net", GroupedNet, (2, 6, 6), "tests/grouped-net")
TIED_NET = Zoolet("tied-net", TiedNet, (6,), "tests/tied-net")

ZOO = (NESTED_MLP, NESTED_CNN, CONV1D_NET, CUSTOM_MLP, CONV_NET, RESNET, GROUPED_NET, TIED_NET)
