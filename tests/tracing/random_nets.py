"""Random small networks, as data that hypothesis can shrink."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

Step = tuple[str, int]

CONVOLUTIONAL = (
    "conv",
    "conv and norm",
    "residual",
    "concatenate before",
    "concatenate after",
    "depthwise",
    "multiplied depthwise",
    "grouped",
    "group norm",
    "gate",
    "channels last",
)
DENSE = ("linear", "linear and norm", "dense residual", "chunk and multiply", "chunk and concatenate", "glu")


class RandomNet(nn.Module):
    """Convolutional steps, a flatten of one of three kinds, dense steps, a head of three outputs."""

    def __init__(self, convolutional: list[Step], flatten: str, dense: list[Step]) -> None:
        super().__init__()
        self.flatten_as = flatten
        self.steps = nn.ModuleList()
        self.forwards: list[tuple[str, int]] = []
        channels = 3
        for kind, width in convolutional:
            channels = self._add(kind, channels, width, image=True)
        self.cut = len(self.steps)
        features = channels if flatten == "pool" else channels * 9
        for kind, width in dense:
            features = self._add(kind, features, width, image=False)
        self.head = nn.Linear(features, 3)
        self.double()
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)

    def _add(self, kind: str, width: int, new: int, image: bool) -> int:
        module, result = _MAKERS[kind](width, new)
        self.steps.append(module)
        self.forwards.append((kind, result))
        return result

    def forward(self, x: Tensor) -> Tensor:
        for (kind, _), step in list(zip(self.forwards, self.steps, strict=True))[: self.cut]:
            x = _FORWARDS[kind](step, x)
        if self.flatten_as == "pool":
            x = x.mean((2, 3))
        elif self.flatten_as == "positions first":
            x = x.permute(0, 2, 3, 1).flatten(1)
        else:
            x = x.flatten(1)
        for (kind, _), step in list(zip(self.forwards, self.steps, strict=True))[self.cut :]:
            x = _FORWARDS[kind](step, x)
        return self.head(x)


def _conv(width: int, new: int, groups: int = 1) -> nn.Module:
    return nn.Conv2d(width, new, 3, padding=1, groups=groups)


def _groups(width: int) -> int:
    return next((n for n in (2, 3) if width % n == 0), width)


_MAKERS: dict[str, Callable[[int, int], tuple[nn.Module, int]]] = {
    "conv": lambda c, n: (_conv(c, n), n),
    "conv and norm": lambda c, n: (nn.Sequential(_conv(c, n), nn.BatchNorm2d(n)), n),
    "residual": lambda c, n: (nn.Sequential(_conv(c, n), nn.ReLU(), _conv(n, c)), c),
    "concatenate before": lambda c, n: (_conv(c, n), c + n),
    "concatenate after": lambda c, n: (_conv(c, n), c + n),
    "depthwise": lambda c, n: (_conv(c, c, c), c),
    "multiplied depthwise": lambda c, n: (_conv(c, 2 * c, c), 2 * c),
    "grouped": lambda c, n: (_conv(c, _groups(c) * n, _groups(c)), _groups(c) * n),
    "group norm": lambda c, n: (nn.GroupNorm(_groups(c), c), c),
    "gate": lambda c, n: (nn.Sequential(_conv(c, n), nn.ReLU(), _conv(n, c)), c),
    "channels last": lambda c, n: (nn.Linear(c, n), n),
    "linear": lambda c, n: (nn.Linear(c, n), n),
    "linear and norm": lambda c, n: (nn.Sequential(nn.Linear(c, n), nn.BatchNorm1d(n)), n),
    "dense residual": lambda c, n: (nn.Sequential(nn.Linear(c, n), nn.ReLU(), nn.Linear(n, c)), c),
    "chunk and multiply": lambda c, n: (nn.Linear(c, 2 * n), n),
    "chunk and concatenate": lambda c, n: (nn.Linear(c, 2 * n), 2 * n),
    "glu": lambda c, n: (nn.Linear(c, 2 * n), n),
}

_FORWARDS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "conv": lambda step, x: F.relu(step(x)),
    "conv and norm": lambda step, x: F.silu(step(x)),
    "residual": lambda step, x: x + step(x),
    "concatenate before": lambda step, x: torch.cat([step(x), x], 1),
    "concatenate after": lambda step, x: torch.cat([x, F.relu(step(x))], 1),
    "depthwise": lambda step, x: step(x),
    "multiplied depthwise": lambda step, x: F.relu(step(x)),
    "grouped": lambda step, x: step(x),
    "group norm": lambda step, x: step(x),
    "gate": lambda step, x: x * torch.sigmoid(step(x)),
    "channels last": lambda step, x: step(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "linear": lambda step, x: F.gelu(step(x)),
    "linear and norm": lambda step, x: torch.tanh(step(x)),
    "dense residual": lambda step, x: x + step(x),
    "chunk and multiply": lambda step, x: torch.mul(*step(x).chunk(2, -1)),
    "chunk and concatenate": lambda step, x: torch.cat(step(x).chunk(2, -1)[::-1], -1),
    "glu": lambda step, x: F.glu(step(x), -1),
}


def steps(kinds: tuple[str, ...], least: int) -> st.SearchStrategy[list[Step]]:
    return st.lists(st.tuples(st.sampled_from(kinds), st.integers(2, 4)), min_size=least, max_size=4)


NETS = st.builds(
    RandomNet,
    steps(CONVOLUTIONAL, 1),
    st.sampled_from(["channels first", "positions first", "pool"]),
    steps(DENSE, 0),
)
