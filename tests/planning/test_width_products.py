"""Widths over which two activations are multiplied and summed up: no weight reads them there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from esper_es import ModelSurgeon


class OneHead(nn.Module):
    """Queries and keys whose products are summed up; values as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.leave = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(x).transpose(1, 2)
        return self.leave(scores.softmax(-1) @ x)


class Attended(nn.Module):
    """A state that is both compared with keys and read by a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.key, self.leave = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(11, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.tanh(self.enter(x.mean(1)))
        weights = torch.softmax(torch.bmm(self.key(x), state.unsqueeze(-1)), 1)
        return self.leave(torch.cat([state, (weights * x).sum(1)], -1))


@pytest.mark.parametrize(("model", "layer"), [(OneHead, "query"), (Attended, "enter")])
def test_a_wider_product_computes_what_it_did(model: type[nn.Module], layer: str) -> None:
    net, x = model().eval(), torch.randn(3, 7, 5)
    before = net(x)
    result = ModelSurgeon(example_inputs=(x,)).modify_layer_width(net, layer, 8)
    assert result.success
    torch.testing.assert_close(net(x), before)


@pytest.mark.parametrize(("model", "layer"), [(OneHead, "query"), (Attended, "enter")])
def test_new_units_of_a_product_learn(model: type[nn.Module], layer: str) -> None:
    net, x = model(), torch.randn(3, 7, 5)
    ModelSurgeon(example_inputs=(x,)).modify_layer_width(net, layer, 8)
    net(x).square().sum().backward()
    gradient = net.get_submodule(layer).weight.grad.abs() + net.key.weight.grad.abs()
    assert (gradient[6:].sum(1) > 0).all()


def test_layers_that_run_on_constant_positions_compute_what_they_did() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("places", torch.randn(7, 2))
            self.table, self.leave = (
                nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 5)),
                nn.Linear(5, 2),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.leave(torch.relu(x + self.table(self.places)))

    net, x = Positions().eval(), torch.randn(3, 7, 5)
    before = net(x)
    assert ModelSurgeon(example_inputs=(x,)).modify_layer_width(net, "table.0", 8).success
    torch.testing.assert_close(net(x), before)
