"""Models that leave out whole layers at random while they train."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from esper_es import Engine, blueprint


class StochasticDepth(nn.Module):
    """Residual layers, each of which is dropped every second time (Huang et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 8), nn.Linear(8, 2)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            if not self.training or bool(torch.rand(()) < 0.5):
                x = x + layer(x).tanh()
        y: Tensor = self.head(x)
        return y


blueprint("tests/stochastic-depth")(StochasticDepth)


@pytest.mark.parametrize("seed", range(6))
def test_a_layer_that_was_dropped_in_a_trial_is_not_taken_for_dead(seed: int, engine: Engine) -> None:
    torch.manual_seed(seed)
    run = engine.attach(StochasticDepth(), "model", (torch.randn(4, 6),), blueprint="tests/stochastic-depth")
    assert run.surgeon.add_layer(after_layer="stem", new_layer=nn.Dropout(0.1), layer_name="drop").success
    assert run.surgeon.add_layer(after_layer="layers.1", new_layer=nn.Linear(8, 8), layer_name="new").success
    assert run.surgeon.modify_layer_width(layer_name="stem", new_width=12).success
