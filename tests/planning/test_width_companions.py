"""Widths that the model's own code takes for one, as in ``y.view(batch, length, channels)``."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_es import ModelSurgeon, SurgeryResult


class Block(nn.Module):
    """What most people write: the width of all heads is that of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 3
        self.norm, self.norm2 = nn.LayerNorm(12), nn.LayerNorm(12)
        self.qkv, self.proj = nn.Linear(12, 36), nn.Linear(12, 12)
        self.fc1, self.fc2 = nn.Linear(12, 12), nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm(x)).view(b, n, 3, self.heads, c // self.heads).transpose(1, 3).unbind(2)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 12), nn.Linear(12, 2)
        self.blocks = nn.Sequential(Block(), Block())

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.blocks(self.enter(x)))


X = torch.randn(3, 7, 5)


def changed(model: Tower, layer: str, width: int, unit: str = "channels") -> SurgeryResult:
    return ModelSurgeon(example_inputs=(X,)).modify_layer_width(model, layer, width, unit=unit)


@pytest.mark.parametrize("width", [8, 16])
def test_a_stream_changes_with_the_heads_of_all_layers(width: int) -> None:
    model = Tower()
    assert changed(model, "enter", width).success
    assert [block.qkv.out_features for block in model.blocks] == [3 * width] * 2
    assert [block.heads for block in model.blocks] == [width // 4] * 2


def test_a_wider_stream_with_its_heads_computes_what_it_did() -> None:
    model = Tower().eval()
    before = model(X)
    changed(model, "enter", 16)
    torch.testing.assert_close(model(X), before)


def test_a_head_brings_the_stream_and_the_heads_of_other_layers_along() -> None:
    model = Tower()
    assert changed(model, "blocks.1.qkv", 4, "units").success
    assert (model.enter.out_features, model.blocks[0].heads) == (16, 4)


def test_layers_that_happen_to_be_as_wide_stay() -> None:
    model = Tower()
    changed(model, "enter", 16)
    assert [block.fc1.out_features for block in model.blocks] == [12, 12]


def test_a_width_of_no_whole_heads_is_refused_with_the_nearest() -> None:
    result = changed(Tower(), "enter", 13)
    assert "units of 4; the widths that come nearest and fit are 12 and 16" in str(result.error)


def test_what_mixes_the_channels_of_all_that_changes_is_told() -> None:
    result = changed(Tower(), "blocks.1.qkv", 4, "units")
    assert "aten.native_layer_norm in blocks.0.norm" in result.details["reduced_by"]


class Scaled(nn.Module):
    """A branch whose channels are scaled before it enters the stream (Touvron et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(12), nn.Linear(12, 12)
        self.gamma = nn.Parameter(torch.full((12,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gamma * self.layer(self.norm(x))


class ScaledTower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm, self.leave = nn.Linear(5, 12), nn.LayerNorm(12), nn.Linear(12, 2)
        self.blocks = nn.Sequential(Scaled(), Scaled())

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.norm(self.blocks(self.enter(x))))


def test_a_wider_stream_of_branches_that_are_all_scaled_alike_computes_what_it_did() -> None:
    model = ScaledTower().eval()
    before = model(X)
    result = ModelSurgeon(example_inputs=(X,)).modify_layer_width(model, "enter", 15)
    assert result.success, result.error
    torch.testing.assert_close(model(X), before)
