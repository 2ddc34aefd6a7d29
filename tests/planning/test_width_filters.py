"""Widths across filters in buffers that are the same for all channels: new channels get the same one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_es import Engine, ModelSurgeon, blueprint, fingerprint

FILTER = torch.tensor([1.0, 2.0, 1.0]) / 4


class Blurred(nn.Module):
    """A convolution, a blur, another convolution; the blur's filter is no part of the state dict."""

    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)
        self.channels = 6
        filters = (FILTER[:, None] * FILTER)[None, None].repeat(6, 1, 1, 1)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.leave(F.conv2d(self.enter(x), self.filters, groups=self.channels))
        return y


def resized(width: int, initialization: str = "function_preserving") -> Blurred:
    model = Blurred()
    surgeon = ModelSurgeon(example_inputs=(torch.randn(2, 3, 5, 5),))
    result = surgeon.modify_layer_width(model, "enter", width, initialization)
    assert result.success, result.error
    return model


@pytest.mark.parametrize("width", [4, 9])
def test_all_channels_have_the_one_filter(width: int) -> None:
    filters = resized(width).filters
    assert torch.equal(filters, Blurred().filters[:1].expand(width, 1, 3, 3))


def test_a_module_that_counts_the_filters_counts_the_new_ones() -> None:
    assert resized(9).channels == 9


def test_new_channels_learn_behind_the_filter() -> None:
    model = resized(9)
    torch.autograd.backward(model(torch.randn(2, 3, 5, 5)).square().sum())
    gradient = model.leave.weight.grad
    assert gradient is not None
    assert bool((gradient[:, 6:].abs().sum((0, 2, 3)) > 0).all())


def test_a_replay_has_the_filter(engine: Engine) -> None:
    blueprint("tests/blurred")(Blurred)
    run = engine.attach(
        Blurred(), "model", example_inputs=(torch.randn(2, 3, 5, 5),), blueprint="tests/blurred"
    )
    run.surgeon.modify_layer_width(layer_name="enter", new_width=9)
    replayed = engine.replay("model")
    assert fingerprint(replayed) == run.fingerprint
    assert torch.equal(replayed.get_buffer("filters"), run.model.get_buffer("filters"))
