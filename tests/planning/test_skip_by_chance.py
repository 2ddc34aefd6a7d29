"""Skips between outputs whose shapes agree on the example inputs and not in general."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from esper_es import Engine, Run, blueprint


class Turned(nn.Module):
    """A layer with channels last, and a convolution with channels first behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.conv, self.out = nn.Linear(5, 6), nn.Conv1d(6, 6, 3, padding=1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.conv(torch.relu(self.linear(x)).mT).mT)
        return y


class Mixer(nn.Module):
    """Layers over positions and layers over channels, both of one width (Tolstikhin et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 6), nn.Linear(6, 3)
        self.tokens, self.channels, self.more = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        x = x + torch.relu(self.tokens(x.mT)).mT
        x = x + torch.relu(self.channels(x))
        x = x + torch.relu(self.more(x.mT)).mT
        y: Tensor = self.leave(x)
        return y


class Gram(nn.Module):
    """Channels and samples change places."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.across, self.leave = nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        y: Tensor = self.leave(h + self.across(h.T).T)
        return y


class Hourglass(nn.Module):
    """Halves the positions and doubles them again."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv1d(5, 6, 3, padding=1)
        self.down, self.up = nn.Conv1d(6, 6, 2, 2), nn.ConvTranspose1d(6, 6, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.up(torch.relu(self.down(torch.relu(self.enter(x)))))
        return y


def attached(engine: Engine, kind: Callable[[], nn.Module], *shapes: tuple[int, ...]) -> Run:
    blueprint(f"tests/{kind.__name__}")(kind)
    examples = [torch.randn(shape) for shape in shapes]
    return engine.attach(kind().eval(), "model", examples, blueprint=f"tests/{kind.__name__}")


@pytest.mark.parametrize("shapes", [[(4, 6, 5)], [(4, 6, 5), (4, 7, 5)], [(4, 7, 5), (4, 6, 5)]], ids=str)
@pytest.mark.parametrize("length", [6, 9])
def test_a_skip_from_channels_last_to_channels_first_works_at_every_length(
    shapes: list[tuple[int, ...]], length: int, engine: Engine
) -> None:
    run = attached(engine, Turned, *shapes)
    x = torch.randn(3, length, 5)
    before = run.model(x)
    assert run.surgeon.add_skip_connection(from_layer="linear", to_layer="conv").success
    assert torch.equal(run.model(x), before)


@pytest.mark.parametrize(("source", "target"), [("tokens", "channels"), ("channels", "more")])
def test_channels_are_not_added_to_positions_of_the_same_number(
    source: str, target: str, engine: Engine
) -> None:
    run = attached(engine, Mixer, (4, 6, 5))
    result = run.surgeon.add_skip_connection(from_layer=source, to_layer=target)
    assert (result.success, result.check) == (False, "unlike_dimensions")
    assert "dimension 1 of the one lies along dimension 2 of the other" in (result.error or "")


@pytest.mark.parametrize(("source", "target"), [("tokens", "more"), ("enter", "channels")])
def test_outputs_that_are_laid_out_alike_are_added_as_they_are(
    source: str, target: str, engine: Engine
) -> None:
    run = attached(engine, Mixer, (4, 6, 5))
    result = run.surgeon.add_skip_connection(from_layer=source, to_layer=target)
    assert (result.success, result.details.get("projection")) == (True, None)


def test_samples_are_not_added_to_channels_of_the_same_number(engine: Engine) -> None:
    run = attached(engine, Gram, (4, 5))
    result = run.surgeon.add_skip_connection(from_layer="enter", to_layer="across")
    assert (result.success, result.check) == (False, "incompatible_shapes")
    assert "both return the shape (4, 4) on the example inputs, but only by chance" in (result.error or "")


@pytest.mark.parametrize("length", [6, 8])
def test_positions_that_are_halved_and_doubled_are_no_chance(length: int, engine: Engine) -> None:
    run = attached(engine, Hourglass, (4, 5, length))
    result = run.surgeon.add_skip_connection(from_layer="enter", to_layer="up")
    assert (result.success, result.details.get("projection")) == (True, None)
