"""GradMax: new units with the largest gradient that a batch allows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import CUSTOM_MLP, NESTED_MLP, Zoolet
from torch import Tensor, nn
from training import adam, attached, part_of

from esper_es import Engine, UsageError, blueprint

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(3))


def loss(model: nn.Module) -> torch.Tensor:
    squares: torch.Tensor = (model(X) - 1.0).square().mean()
    return squares


def gradient_of_new_units(initialization: str) -> float:
    torch.manual_seed(0)
    with Engine() as engine:
        run = attached(engine, NESTED_MLP, adam)
        result = run.surgeon.modify_layer_width(
            layer_name="0", new_width=11, initialization=initialization, loss=loss
        )
        assert result.details["output_difference"] < 1e-6
        run.model.zero_grad()
        torch.autograd.backward(loss(run.model))
        gradient = run.model.get_parameter("2.0.weight").grad
        assert gradient is not None
        scale = run.model.get_parameter("0.weight").detach()[8:].norm()
        return (gradient[:, 8:].norm() / scale).item()


def test_new_units_get_a_larger_gradient_than_drawn_ones() -> None:
    assert gradient_of_new_units("gradmax") > gradient_of_new_units("kaiming")


def test_without_a_loss_it_says_what_to_give(engine: Engine) -> None:
    run = attached(engine, CUSTOM_MLP)
    with pytest.raises(UsageError, match="give loss="):
        run.surgeon.modify_layer_width(layer_name="enter", new_width=10, initialization="gradmax")


def test_a_loss_that_is_no_scalar_is_one_clear_error(engine: Engine) -> None:
    run = attached(engine, CUSTOM_MLP)
    with pytest.raises(UsageError, match="return a scalar"):
        run.surgeon.modify_layer_width(
            layer_name="enter", new_width=10, initialization="gradmax", loss=lambda model: model(X)
        )


class Convolutions(nn.Module):
    """Two convolutions that stride, pad and dilate, with nothing between, then a third behind a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.second = nn.Conv2d(4, 3, (3, 2), dilation=(2, 1), padding=(1, 0))
        self.third = nn.Conv2d(3, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.third(nn.functional.avg_pool2d(self.second(self.first(x)), 2)).mean((2, 3))
        return pooled


CONVOLUTIONS = Zoolet("gradmax", Convolutions, (2, 19, 21), "tests/gradmax-convolutions")
blueprint("tests/gradmax-convolutions")(Convolutions)
IMAGES = torch.randn(4, 2, 19, 21, generator=torch.Generator().manual_seed(5))


def loss_of_images(model: nn.Module) -> torch.Tensor:
    squares: torch.Tensor = model(IMAGES).square().mean()
    return squares


def test_between_convolutions_no_weights_of_the_same_size_get_a_larger_gradient(engine: Engine) -> None:
    run = attached(engine, CONVOLUTIONS)
    result = run.surgeon.modify_layer_width(
        layer_name="first", new_width=5, initialization="gradmax", loss=loss_of_images
    )
    assert result.success, result.error
    chosen = run.model.get_parameter("first.weight").detach()[4].clone()
    others = torch.randn(200, *chosen.shape, generator=torch.Generator().manual_seed(1))
    found = [gradient_behind(run.model, chosen.norm() * other / other.norm()) for other in others]
    assert gradient_behind(run.model, chosen) >= max(found)


def gradient_behind(model: nn.Module, incoming: Tensor) -> float:
    """Gradient norm of the weights behind the fifth unit, were it fed by these."""
    with torch.no_grad():
        model.get_parameter("first.weight")[4] = incoming
    weight = model.get_parameter("second.weight")
    (gradient,) = torch.autograd.grad(loss_of_images(model), weight)
    return gradient[:, 4].norm().item()


def test_layers_with_a_pool_between_are_refused_by_name(engine: Engine) -> None:
    run = attached(engine, CONVOLUTIONS)
    result = run.surgeon.modify_layer_width(
        layer_name="second", new_width=4, initialization="gradmax", loss=loss_of_images
    )
    assert (result.success, result.check) == (False, "gradmax")
    assert "'second' and 'third' do not see the same positions" in (result.error or "")


def test_more_units_than_directions_are_all_different(engine: Engine) -> None:
    run = attached(engine, CUSTOM_MLP, adam)
    run.surgeon.modify_layer_width(layer_name="enter", new_width=30, initialization="gradmax", loss=loss)
    assert len(torch.unique(run.model.get_parameter("enter.weight"), dim=0)) == 30


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("a string", "give loss="),
        (lambda model: model(X).sum() * float("nan"), "is not finite"),
        (lambda model: model(X).sum() * 0.0, "is zero"),
        (lambda model: model.leave(torch.randn(4, 8)).sum(), "must run the model"),
        (lambda model: {}["nothing"], "KeyError"),
    ],
)
def test_a_loss_that_says_nothing_is_one_clear_error(wrong: Any, words: str, engine: Engine) -> None:
    run = attached(engine, CUSTOM_MLP)
    with pytest.raises(UsageError, match=words):
        run.surgeon.modify_layer_width(
            layer_name="middle", new_width=10, initialization="gradmax", loss=wrong
        )


def test_one_sample_without_a_batch_will_do(engine: Engine) -> None:
    run = attached(engine, CUSTOM_MLP)
    result = run.surgeon.modify_layer_width(
        layer_name="enter",
        new_width=10,
        initialization="gradmax",
        loss=lambda model: model(X[0]).square().sum(),
    )
    assert result.success


def test_a_change_asked_for_by_a_loss_is_refused(engine: Engine) -> None:
    run = attached(engine, CUSTOM_MLP)

    def meddling(model: nn.Module) -> torch.Tensor:
        run.surgeon.modify_layer_width(layer_name="enter", new_width=12)
        return loss(model)

    with pytest.raises(UsageError, match="is being planned"):
        run.surgeon.modify_layer_width(
            layer_name="enter", new_width=10, initialization="gradmax", loss=meddling
        )
    assert part_of(run, "enter").out_features == 8
