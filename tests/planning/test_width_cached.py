"""Widths of models whose forward computes something from its weights once and keeps it until it trains again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from esper_es import ModelSurgeon


class Biased(nn.Module):
    """Attention with a bias for each head, expanded from a table on the first forward in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 3
        self.qkv, self.leave = nn.Linear(6, 36), nn.Linear(12, 2)
        self.table = nn.Parameter(torch.randn(3, 7))
        self.cache: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> Biased:
        if mode and self.cache:
            self.cache = {}
        return super().train(mode)

    def bias(self) -> Tensor:
        if self.training:
            return self.table[:, None]
        if "bias" not in self.cache:
            self.cache["bias"] = self.table[:, None]
        return self.cache["bias"]

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).transpose(1, 3).unbind(2)
        out = (q @ k.transpose(-1, -2) + self.bias()).softmax(-1) @ v
        return self.leave(out.transpose(1, 2).flatten(2))


class Measuring(nn.Module):
    """Puts a table of the right length in place of its buffer as it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.weigh = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(3, 2)
        self.places: Tensor
        self.register_buffer("places", torch.zeros(1, 3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if len(self.places) != len(x):
            self.places = torch.randn(len(x), 3)
        out: Tensor = self.second(self.first(x).relu()) + self.weigh(self.places)
        return out


def test_a_buffer_that_the_model_replaces_as_it_runs_holds_up_no_width() -> None:
    model = Measuring()
    result = ModelSurgeon(example_inputs=(torch.randn(5, 4),)).modify_layer_width(model, "first", 8)
    assert result.success, result.error


def test_heads_with_a_kept_bias_can_be_added() -> None:
    model, x = Biased().train(), torch.randn(2, 7, 6)
    result = ModelSurgeon(example_inputs=(x,)).modify_layer_width(model, "qkv", 4, unit="units")
    assert (result.success, model.table.shape[0]) == (True, 4)


def test_a_layer_whose_train_method_looks_at_what_is_inside_can_be_removed() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Sequential(Biased(), nn.Linear(2, 6)), nn.Linear(6, 2)).train()
    surgeon = ModelSurgeon(example_inputs=(torch.randn(2, 7, 6),))
    assert surgeon.remove_layer(model, layer_name="1").success
