"""Small models of many kinds, each with an example input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or inner != outer:
            self.downsample = nn.Sequential(
                nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += shortcut
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self, widths: tuple[int, ...] = (6, 8), classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(True)
        )
        blocks: list[nn.Module] = []
        inner = widths[0]
        for number, width in enumerate(widths):
            blocks += [BasicBlock(inner, width, 1 if number == 0 else 2), BasicBlock(width, width, 1)]
            inner = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inner, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))
        return self.head(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class UNet(nn.Module):
    """One level; the decoder sees the upsampled path first and the skip after it."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 6, 3, padding=1)
        self.down = nn.Conv2d(6, 10, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(10, 4, 2, stride=2)
        self.merge = nn.Conv2d(4 + 6, 7, 3, padding=1)
        self.leave = nn.Conv2d(7, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.enter(x))
        up = self.up(F.relu(self.down(skip)))
        return self.leave(F.relu(self.merge(torch.cat([up, skip], dim=1))))


class Flattened(nn.Module):
    """Convolution, flatten in one of two orders, linear."""

    def __init__(self, channels_last: bool, channels: int = 4) -> None:
        super().__init__()
        self.channels_last = channels_last
        self.conv = nn.Conv2d(3, channels, 3, padding=1)
        self.fc = nn.Linear(channels * 9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        if self.channels_last:
            x = x.permute(0, 2, 3, 1)
        return self.fc(x.reshape(x.shape[0], -1))


class GroupedConvs(nn.Module):
    """Pointwise, depthwise, grouped, with batch and group norms between."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.bn = nn.BatchNorm2d(8)
        self.project = nn.Conv2d(8, 12, 1)
        self.norm = nn.GroupNorm(3, 12)
        self.grouped = nn.Conv2d(12, 6, 3, padding=1, groups=3)
        self.leave = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.bn(self.depthwise(F.silu(self.expand(x)))))
        x = self.grouped(F.silu(self.norm(self.project(x))))
        return self.leave(x)


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 8, 3, padding=1)
        self.squeeze = nn.Linear(8, 2)
        self.excite = nn.Linear(2, 8)
        self.leave = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.enter(x))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        return self.leave(x * gate[:, :, None, None])


class TiedAutoencoder(nn.Module):
    """The decoder reads the transposed weight of the encoder; its token table is also its output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, 6)
        self.encode = nn.Linear(6, 4)
        self.output = nn.Linear(6, 11, bias=False)
        self.output.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = torch.tanh(self.encode(self.tokens(tokens)))
        return self.output(hidden @ self.encode.weight)


class SharedTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(3, 6)
        self.shared = nn.Linear(6, 6)
        self.leave = nn.Linear(6, 2)
        self.alias = self.shared

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.enter(x))
        return self.leave(self.alias(torch.relu(self.shared(x))))


class Branching(nn.Module):
    """Which branch runs depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(3, 6)
        self.positive = nn.Linear(6, 2)
        self.negative = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.enter(x))
        return self.positive(hidden) if x.sum() > 0 else self.negative(hidden)


class Attention(nn.Module):
    """Separate projections; the number of heads follows the weights, so that heads can be added."""

    def __init__(self, width: int = 12, heads: int = 3, head: int = 4, rotary: bool = False) -> None:
        super().__init__()
        self.head = head
        self.rotary = rotary
        self.enter = nn.Linear(5, width)
        self.q = nn.Linear(width, heads * head)
        self.k = nn.Linear(width, heads * head)
        self.v = nn.Linear(width, heads * head)
        self.o = nn.Linear(heads * head, width)
        self.leave = nn.Linear(width, 2)

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], -1, self.head).transpose(1, 2)

    def rotate(self, x: Tensor) -> Tensor:
        if not self.rotary:
            return x
        angle = torch.arange(x.shape[2])[:, None] / torch.arange(1, self.head + 1)
        first, second = x.chunk(2, dim=-1)
        return x * angle.cos() + torch.cat([-second, first], -1) * angle.sin()

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        q, k, v = (
            self.rotate(self.split(self.q(x))),
            self.rotate(self.split(self.k(x))),
            self.split(self.v(x)),
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.leave(x + self.o(mixed.transpose(1, 2).flatten(2)))


class PackedAttention(nn.Module):
    """Queries, keys and values from one weight."""

    def __init__(self, width: int = 10, heads: int = 3, head: int = 4) -> None:
        super().__init__()
        self.head = head
        self.enter = nn.Linear(5, width)
        self.qkv = nn.Linear(width, 3 * heads * head)
        self.o = nn.Linear(heads * head, width)
        self.leave = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, -1, self.head).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q @ k.transpose(-2, -1) / self.head**0.5).softmax(-1)
        return self.leave(x + self.o((scores @ v).transpose(1, 2).reshape(batch, length, -1)))


class GroupedQueries(nn.Module):
    """Two query heads for each key and value head."""

    def __init__(self, width: int = 10, heads: int = 4, head: int = 4) -> None:
        super().__init__()
        self.head = head
        self.enter = nn.Linear(5, width)
        self.q = nn.Linear(width, heads * head)
        self.k = nn.Linear(width, heads // 2 * head)
        self.v = nn.Linear(width, heads // 2 * head)
        self.o = nn.Linear(heads * head, width)
        self.leave = nn.Linear(width, 2)

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], -1, self.head).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        k, v = k.repeat_interleave(2, dim=1), v.repeat_interleave(2, dim=1)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.leave(x + self.o(mixed.transpose(1, 2).flatten(2)))


class Chunked(nn.Module):
    """C2f of YOLOv8: a chunk, a chain of bottlenecks, everything concatenated."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 2 * width, 1)
        self.steps = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(2)])
        self.leave = nn.Conv2d(4 * width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.enter(x).chunk(2, 1))
        for step in self.steps:
            parts.append(torch.relu(step(parts[-1])))
        return self.leave(torch.cat(parts, 1))


class Generator(nn.Module):
    """A linear layer unflattened into channels, then convolved."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 4 * 9)
        self.bn = nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.relu(self.bn(self.fc(x).view(x.shape[0], -1, 3, 3))))


class Opaque(nn.Module):
    """An operator that no rule knows stands between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(3, 6)
        self.inner = nn.Linear(6, 6)
        self.after = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(torch.relu(self.inner(torch.sort(self.before(x), dim=1).values)))


def example(*args: Any, **kwargs: Any) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    return [(args, kwargs)]


def image(size: int = 6) -> Tensor:
    return torch.randn(2, 3, size, size)


def sequence() -> Tensor:
    return torch.randn(2, 7, 5)
