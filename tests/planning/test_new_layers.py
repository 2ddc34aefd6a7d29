"""What can't be inserted: one clear error each, and the run is as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from engine.photograph import differences, photograph
from models import CUSTOM_MLP
from torch import nn
from torch.nn.utils import parametrizations
from training import adam, attached

from esper_es import Engine, UsageError


def hooked() -> nn.Module:
    layer = nn.Linear(8, 8)
    layer.register_forward_hook(lambda *_: None)
    return layer


def replaced() -> nn.Module:
    layer: Any = nn.Linear(8, 8)
    layer.forward = torch.tanh
    return layer


def holding_itself() -> nn.Module:
    layer = nn.Sequential(nn.Linear(8, 8))
    layer[0].add_module("around", layer)
    return layer


def with_a_tensor_of_its_own() -> nn.Module:
    layer = nn.Linear(8, 8)
    layer.register_buffer("scale", torch.ones(()))
    return layer


def in_two_places() -> nn.Module:
    layer = nn.Linear(8, 8)
    return nn.Sequential(layer, layer)


class OwnLinear(nn.Linear):
    """A subclass of a registered kind is another kind."""


NOT_TO_BE_INSERTED: dict[str, tuple[Callable[[], object], str]] = {
    "on the meta device": (
        lambda: nn.Linear(8, 8, device="meta"),
        "on the meta device; build it on a real one",
    ),
    "lazy": (lambda: nn.LazyLinear(8), "run it once, or build a Linear"),
    "lazy buffers": (lambda: nn.LazyBatchNorm1d(), "run it once, or build a BatchNorm1d"),
    "hooked": (hooked, "has a hook, <lambda>"),
    "inside hooked": (lambda: nn.Sequential(hooked()), "new_layer's '0' has a hook"),
    "a forward of its own": (replaced, "forward replaced on the object"),
    "parametrized": (lambda: parametrizations.weight_norm(nn.Linear(8, 8)), "is parametrized"),
    "spectral norm": (lambda: nn.utils.spectral_norm(nn.Linear(8, 8)), "has a hook, SpectralNorm"),
    "a subclass": (lambda: OwnLinear(8, 8), "classes OwnLinear are described by no registered layer kind"),
    "holding itself": (holding_itself, "holds itself"),
    "with a tensor of its own": (with_a_tensor_of_its_own, "do not tell of"),
    "in two places": (in_two_places, "one layer in two places"),
    "a class": (lambda: nn.Linear, "a layer spec is a mapping"),
    "a tensor in a spec": (lambda: {"type": "linear", "in_features": torch.tensor(8)}, "is wrong"),
}


@pytest.mark.parametrize("connection_type", ["sequential", "residual"])
@pytest.mark.parametrize("what", NOT_TO_BE_INSERTED)
def test_a_layer_that_a_log_cannot_tell_of_is_an_error(
    what: str, connection_type: str, engine: Engine
) -> None:
    make, message = NOT_TO_BE_INSERTED[what]
    run = attached(engine, CUSTOM_MLP, adam)
    layer: Any = make()
    before = photograph(run)
    with pytest.raises(UsageError, match=message):
        run.surgeon.add_layer(
            after_layer="middle", new_layer=layer, layer_name="fresh", connection_type=connection_type
        )
    assert differences(before, photograph(run)) == []


@pytest.mark.parametrize("shared", ["middle", "middle.weight", ""])
def test_a_layer_that_belongs_to_the_model_already_is_an_error(shared: str, engine: Engine) -> None:
    run = attached(engine, CUSTOM_MLP)
    layer: nn.Module = nn.Sequential(run.model.get_submodule("middle"), nn.ReLU())
    if shared == "middle.weight":
        layer = nn.Linear(8, 8)
        layer.register_parameter("weight", run.model.get_parameter(shared))
    with pytest.raises(UsageError, match="hand over a copy"):
        run.surgeon.add_layer(
            after_layer="middle", new_layer=layer if shared else run.model, layer_name="fresh"
        )


def test_a_layer_of_another_dtype_is_told_which_is_right(engine: Engine) -> None:
    run = attached(engine, CUSTOM_MLP)
    layer = nn.Linear(8, 8, dtype=torch.float64)
    result = run.surgeon.add_layer(after_layer="middle", new_layer=layer, layer_name="fresh")
    assert (result.success, result.check) == (False, "incompatible_shapes")
    assert "Hand it over as new_layer.to(torch.float32)" in (result.error or "")


@pytest.mark.parametrize("name", ["training", "forward", "enter", "T_destination"])
def test_a_name_that_means_something_to_the_parent_is_taken(name: str, engine: Engine) -> None:
    run = attached(engine, CUSTOM_MLP)
    result = run.surgeon.add_layer(after_layer="middle", new_layer=nn.Tanh(), layer_name=name)
    assert (result.success, result.check) == (False, "name_taken")


@pytest.mark.parametrize("name", ["", "a.b", "_x", "\n", None, 3])
def test_a_name_that_can_name_no_module_is_an_error(name: Any, engine: Engine) -> None:
    run = attached(engine, CUSTOM_MLP)
    with pytest.raises(UsageError, match="a layer's name"):
        run.surgeon.add_layer(after_layer="middle", new_layer=nn.Tanh(), layer_name=name)


def test_nothing_follows_the_whole_model(engine: Engine) -> None:
    run = attached(engine, CUSTOM_MLP)
    result = run.surgeon.add_layer(after_layer="", new_layer=nn.Tanh(), layer_name="fresh")
    assert (result.success, result.check) == (False, "unknown_layer")
    assert result.error == "'' names the whole model; name a layer inside it"
