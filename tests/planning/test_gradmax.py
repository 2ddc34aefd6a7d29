"""GradMax: new units with the largest gradient that a batch allows."""

from __future__ import annotations

import pytest
import torch
from models import CONV_NET, CUSTOM_MLP, NESTED_MLP
from torch import nn
from training import adam, attached, gradients

from esper_es import Engine, UsageError

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


def test_convolutions_are_refused_by_name(engine: Engine) -> None:
    run = attached(engine, CONV_NET, adam)
    result = run.surgeon.modify_layer_width(
        layer_name="conv1",
        new_width=8,
        initialization="gradmax",
        loss=lambda model: gradients(model, CONV_NET.batch()),
    )
    assert (result.success, result.check) == (False, "gradmax")


def test_more_units_than_directions_are_all_different(engine: Engine) -> None:
    run = attached(engine, CUSTOM_MLP, adam)
    run.surgeon.modify_layer_width(layer_name="enter", new_width=30, initialization="gradmax", loss=loss)
    assert len(torch.unique(run.model.get_parameter("enter.weight"), dim=0)) == 30
