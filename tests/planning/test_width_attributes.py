"""Integers of user code that follow a width, although none of them is that width."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_es import ModelSurgeon

X = torch.randn(3, 7, 5)


class Gated(nn.Module):
    """A part of the channels passes a convolution; the parts are cut by sizes that were computed once."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 24), nn.Linear(12, 2)
        self.conv = nn.Conv1d(4, 4, 3, padding=1, groups=4)
        self.sizes = (12, 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        gate, plain, mixed = self.enter(x).split(self.sizes, -1)
        mixed = self.conv(mixed.transpose(1, 2)).transpose(1, 2)
        return self.leave(torch.relu(gate) * torch.cat([plain, mixed], -1))


class Ghost(nn.Module):
    """Twice as many channels as one layer makes, cut to a number."""

    def __init__(self) -> None:
        super().__init__()
        self.primary, self.cheap, self.out = nn.Conv1d(7, 4, 1), nn.Conv1d(4, 4, 1, groups=4), 8
        self.leave = nn.Conv1d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        made = torch.relu(self.primary(x))
        return self.leave(torch.cat([made, self.cheap(made)], 1)[:, : self.out])


class Modulated(nn.Module):
    """A norm without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm, self.leave = (
            nn.Linear(5, 6),
            nn.LayerNorm(6, elementwise_affine=False),
            nn.Linear(6, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.norm(self.enter(x)))


class Queries(nn.Module):
    """Two heads of queries for each one of keys and values, counted under short names."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.leave = (
            nn.Linear(5, 24),
            nn.Linear(5, 12),
            nn.Linear(5, 12),
            nn.Linear(24, 2),
        )
        self.n, self.m = 6, 3

    def forward(self, x: Tensor) -> Tensor:
        parts = ((self.q, self.n), (self.k, self.m), (self.v, self.m))
        q, k, v = (layer(x).view(len(x), -1, count, 4).transpose(1, 2) for layer, count in parts)
        out = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.leave(out.transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    ("build", "layer", "width", "attribute", "value"),
    [
        (Gated, "conv", 5, "sizes", (13, 8, 5)),
        (Gated, "conv", 3, "sizes", (11, 8, 3)),
        (Ghost, "primary", 5, "out", 10),
        (Queries, "k", 16, "n", 8),
        (Modulated, "enter", 7, "norm.normalized_shape", (7,)),
    ],
)
def test_integers_follow(
    build: type[nn.Module], layer: str, width: int, attribute: str, value: object
) -> None:
    model = build()
    assert ModelSurgeon(example_inputs=(X,)).modify_layer_width(model, layer, width).success
    owner, _, name = attribute.rpartition(".")
    found = getattr(model.get_submodule(owner), name)
    assert (tuple(found) if isinstance(value, tuple) else found) == value


def test_narrowing_that_leaves_a_layer_no_channel_is_refused() -> None:
    class Partial(nn.Module):
        """The first channel alone passes a layer of its own."""

        def __init__(self) -> None:
            super().__init__()
            self.enter, self.own, self.leave = nn.Linear(5, 4), nn.Linear(1, 3), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            first, rest = self.enter(x).split([1, 3], -1)
            return self.leave(torch.cat([self.own(first), rest], -1))

    def last(model: nn.Module, group: object) -> list[float]:
        return [0.0, 1.0, 2.0, 3.0]

    surgeon = ModelSurgeon(example_inputs=(X,))
    result = surgeon.modify_layer_width(Partial(), "enter", 3, importance=last)
    assert "would be left without a channel" in str(result.error)


class Settings:
    """What all layers share."""

    def __init__(self) -> None:
        self.heads, self.widths = 3, [24, 8]


class Attention(nn.Module):
    """Cuts its heads by the settings."""

    def __init__(self, config: Settings) -> None:
        super().__init__()
        self.config = config
        self.packed, self.project = nn.Linear(10, 36), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        packed = self.packed(x).view(*x.shape[:2], 3, self.config.heads, 4).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*packed).transpose(1, 2)
        y: Tensor = x + self.project(mixed.reshape(*x.shape[:2], -1))
        return y


class Configured(nn.Module):
    """Two attentions, and a width that is asserted by the settings."""

    def __init__(self) -> None:
        super().__init__()
        self.config = Settings()
        self.enter, self.leave = nn.Linear(5, 10), nn.Linear(8, 2)
        self.first, self.second = Attention(self.config), Attention(self.config)
        self.between = nn.Linear(10, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.between(self.second(self.first(self.enter(x))))
        return self.leave(x.reshape(len(x), -1, self.config.widths[-1]))


@pytest.mark.parametrize(("heads", "width"), [(4, 48), (2, 24)])
def test_heads_that_shared_settings_count_change_in_all_layers_at_once(heads: int, width: int) -> None:
    model = Configured()
    surgeon = ModelSurgeon(example_inputs=(X,))
    assert surgeon.modify_layer_width(model, "second.packed", heads, unit="units").success
    assert (model.config.heads, model.first.packed.out_features) == (heads, width)


def test_a_width_that_settings_hold_in_a_list_changes_there() -> None:
    model = Configured()
    before = model(X)
    assert ModelSurgeon(example_inputs=(X,)).modify_layer_width(model, "between", 9).success
    torch.testing.assert_close(model(X), before)
    assert model.config.widths == [24, 9]


class Written(nn.Module):
    """Keeps a number of the size of a width, and writes that width down in its code besides."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave, self.width = nn.Linear(5, 8), nn.Linear(8, 2), 8

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x).view(*x.shape[:2], 8)
        return self.leave(y * self.width)


def refused() -> str:
    result = ModelSurgeon(example_inputs=(X,)).modify_layer_width(Written(), "enter", 9)
    assert not result.success
    return str(result.error)


def test_a_refusal_names_the_line_of_code_that_fixes_a_width() -> None:
    assert "in the model itself (test_width_attributes.py, line" in refused()


def test_a_refusal_names_the_numbers_that_were_tried() -> None:
    assert "Written.width" in refused()
