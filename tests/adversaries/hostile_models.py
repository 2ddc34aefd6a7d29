"""Models that do what a surgeon would rather they did not; all take ``(4, 6)`` unless they say otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations

from esper_es import blueprint


class Views(nn.Module):
    """Splits its width into pairs, swaps them, folds and unfolds it."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 8)
        self.middle = nn.Linear(8, 8)
        self.leave = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.enter(x))
        x = x.view(-1, 2, 4).transpose(1, 2).reshape(-1, 8)
        x = torch.relu(self.middle(x)).unfold(1, 4, 2).sum(-1).repeat(1, 3)[:, :8].flip(1)
        y: Tensor = self.leave(x)
        return y


class InPlace(nn.Module):
    """Writes over its activations, whole and in part."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 8)
        self.middle = nn.Linear(8, 8)
        self.leave = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        x.mul_(0.5).add_(1.0)
        x[:, :4] *= 2.0
        x[:, 4] = 0.0
        x = self.middle(x).relu_()
        y: Tensor = self.leave(x)
        y += 1.0
        return y


class AsStrided(nn.Module):
    """Reads its width with strides of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 8)
        self.leave = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).contiguous()
        x = x.as_strided((x.shape[0], 8), (8, 1), 0)
        y: Tensor = self.leave(torch.tanh(x))
        return y


class Einsum(nn.Module):
    """Contracts by subscripts, parameters of its own among what is contracted."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 8)
        self.core = nn.Parameter(torch.randn(2, 4, 5) * 0.3)
        self.leave = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.enter(x)).view(-1, 2, 4)
        x = torch.einsum("bhc,hco->bo", x, self.core)
        y: Tensor = self.leave(torch.relu(x))
        return y


class _Squash(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale)
        return torch.tanh(x * scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, scale = ctx.saved_tensors
        slope = gradients[0] * (1 - torch.tanh(x * scale) ** 2)
        return slope * scale, (slope * x).sum(0)


class CustomFunction(nn.Module):
    """Runs an autograd function of its own over its width."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 8)
        self.scale = nn.Parameter(torch.ones(8))
        self.leave = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        squashed: Tensor = _Squash.apply(self.enter(x), self.scale)  # type: ignore[no-untyped-call]
        y: Tensor = self.leave(squashed)
        return y


class Normed(nn.Module):
    """A layer whose weight another module computes."""

    def __init__(self, norm: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 8)
        self.middle = norm(nn.Linear(8, 8))
        self.leave = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.leave(torch.relu(self.middle(torch.relu(self.enter(x)))))
        return y


def weight_normed() -> nn.Module:
    return Normed(parametrizations.weight_norm)


def spectral_normed() -> nn.Module:
    return Normed(parametrizations.spectral_norm)


def spectral_normed_by_a_hook() -> nn.Module:
    return Normed(nn.utils.spectral_norm)


def orthogonal() -> nn.Module:
    return Normed(parametrizations.orthogonal)


class Lists(nn.Module):
    """Parameters in a list and in a dictionary, used without any layer."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 8)
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(8, 8) * 0.3) for _ in range(2)])
        self.named = nn.ParameterDict({"bias": nn.Parameter(torch.zeros(8))})
        self.leave = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.enter(x))
        for weight in self.weights:
            x = torch.relu(x @ weight + self.named["bias"])
        y: Tensor = self.leave(x)
        return y


class TwoShapes(nn.Module):
    """One layer on rows and on rows of columns."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 8)
        self.shared = nn.Linear(8, 8)
        self.leave = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.enter(x))
        many = self.shared(x[:, None, :].expand(-1, 5, -1)).mean(1)
        y: Tensor = self.leave(torch.relu(self.shared(x) + many))
        return y


class Nested(nn.Module):
    """Returns dictionaries of lists of dictionaries, from an inner module too."""

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, bundle: dict[str, Any], *, scale: float = 1.0) -> dict[str, Any]:
            x = self.layer(bundle["data"]["x"]) * scale
            return {
                "note": "text",
                "count": 3,
                "data": {"x": torch.relu(x), "rest": [None, (x, {"y": x * 2})]},
            }

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 8)
        self.inner = self.Inner()
        self.leave = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> dict[str, Any]:
        made = self.inner({"data": {"x": torch.relu(self.enter(x))}}, scale=0.5)
        return {
            "scores": [{"first": self.leave(made["data"]["x"])}],
            "aside": {"y": made["data"]["rest"][1][1]["y"].mean()},
        }


class Dynamic(nn.Module):
    """Answers for attributes that it does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(
            {"enter": nn.Linear(6, 8), "middle": nn.Linear(8, 8), "leave": nn.Linear(8, 3)}
        )

    def __getattr__(self, name: str) -> Any:
        if name in ("enter", "middle", "leave"):
            return self.__dict__["_modules"]["layers"][name]
        return super().__getattr__(name)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.leave(torch.relu(self.middle(torch.relu(self.enter(x)))))
        return y


class AnswersAll(nn.Module):
    """Has every attribute that anybody asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 8)
        self.leave = nn.Linear(8, 3)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__"):
                raise
            return None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.leave(torch.relu(self.enter(x)))
        return y


class DataDependent(nn.Module):
    """Takes another branch for other data, and as many steps as the data say."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 8)
        self.often = nn.Linear(8, 8)
        self.seldom = nn.Linear(8, 8)
        self.leave = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.enter(x))
        for _ in range(1 + int(x.sum() > 1e6)):
            x = torch.relu(self.seldom(x) if float(x.mean()) > 1e3 else self.often(x))
        y: Tensor = self.leave(x)
        return y


class Functional(nn.Module):
    """Calls an inner module with tensors that it computes from that module's own."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 8)
        self.inner = nn.Linear(8, 8)
        self.leave = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        tensors = {name: tensor * 0.5 for name, tensor in self.inner.named_parameters()}
        x = functional_call(self.inner, tensors, (torch.relu(self.enter(x)),))
        y: Tensor = self.leave(torch.relu(x))
        return y


class ByWeight(nn.Module):
    """Reads the weights of layers and never calls them."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 8)
        self.middle = nn.Linear(8, 8)
        self.leave = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(nn.functional.linear(x, self.enter.weight, self.enter.bias))
        x = torch.relu(torch.addmm(self.middle.bias, x, self.middle.weight.t()))
        y: Tensor = self.leave(x)
        return y


class Replaced(nn.Module):
    """One of its layers has another forward on the object itself; so does the copy that a copy of it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 8)
        self.middle: Any = nn.Linear(8, 8)
        self.middle.forward = Twice(self.middle)
        self.leave = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.leave(torch.relu(self.middle(torch.relu(self.enter(x)))))
        return y


class Twice:
    """A forward that is no method."""

    def __init__(self, layer: nn.Linear) -> None:
        self.layer = layer

    def __call__(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.layer.weight * 2.0, self.layer.bias)


@frozen
class Hostile:
    """A hostile model.

    Attributes:
        build: makes one.
        layers: that surgeries are tried on.
    """

    build: Callable[[], nn.Module]
    layers: tuple[str, ...] = ("enter", "middle", "leave")


HOSTILE: dict[str, Hostile] = {
    "views": Hostile(Views),
    "in-place": Hostile(InPlace),
    "as-strided": Hostile(AsStrided, ("enter", "leave")),
    "einsum": Hostile(Einsum, ("enter", "leave")),
    "custom-function": Hostile(CustomFunction, ("enter", "leave")),
    "weight-norm": Hostile(weight_normed),
    "spectral-norm": Hostile(spectral_normed),
    "spectral-norm-hook": Hostile(spectral_normed_by_a_hook),
    "orthogonal": Hostile(orthogonal),
    "parameter-lists": Hostile(Lists, ("enter", "leave", "weights")),
    "two-shapes": Hostile(TwoShapes, ("enter", "shared", "leave")),
    "nested-dicts": Hostile(Nested, ("enter", "inner", "inner.layer", "leave")),
    "dynamic-attributes": Hostile(Dynamic, ("layers.enter", "layers.middle", "layers.leave", "layers")),
    "every-attribute": Hostile(AnswersAll, ("enter", "leave")),
    "data-dependent": Hostile(DataDependent, ("enter", "often", "seldom", "leave")),
    "functional-call": Hostile(Functional, ("enter", "inner", "leave")),
    "by-weight": Hostile(ByWeight),
    "replaced-forward": Hostile(Replaced),
}

for _name, _hostile in HOSTILE.items():
    blueprint(f"tests/hostile/{_name}")(_hostile.build)
