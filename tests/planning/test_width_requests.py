"""What may be asked of a width: units, dimensions, initializations, importance; and what is refused before it costs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from models import CONV_NET, CUSTOM_MLP, NESTED_MLP, RESNET, Zoolet
from torch import Tensor, nn
from training import adam, attached, train_run

from esper_es import Engine, SurgeryConstraints, UsageError, WidthRepair, blueprint, width_adapter
from esper_es.planning.attributes.width_adapters import Changes
from esper_es.tracing import WidthGroup


class Heads(nn.Module):
    """Attention that keeps its sizes under names of its own, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(6, 12)
        self.out = nn.Linear(12, 6)
        self.across, self.many, self.each, self.calls = 12, 3, 4, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        heads = self.query(x).view(len(x), -1, self.many, self.each).transpose(1, 2)
        mixed = torch.softmax(heads @ heads.transpose(-1, -2), -1) @ heads
        left: Tensor = self.out(mixed.transpose(1, 2).reshape(len(x), -1, self.across))
        return left


class Fixed(nn.Module):
    """A width that stands in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 8)
        self.leave = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        left: Tensor = self.leave(self.enter(x).view(-1, 2, 4).reshape(-1, 8))
        return left


class Scaled(nn.Module):
    """A layer of one's own that keeps a number no tensor shows."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 8)
        self.leave = nn.Linear(8, 3)
        self.half = 4

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.relu(self.enter(x)).split(self.half, 1)
        left_out: Tensor = self.leave(torch.cat([left, right], 1))
        return left_out


HEADS = Zoolet("heads", Heads, (4, 6), "tests/heads")
FIXED = Zoolet("fixed", Fixed, (6,), "tests/fixed")
SCALED = Zoolet("scaled", Scaled, (6,), "tests/scaled")
for _zoolet in (HEADS, FIXED, SCALED):
    blueprint(str(_zoolet.blueprint))(_zoolet.build)


def test_integers_of_user_code_are_found_by_trying_and_proving(engine: Engine) -> None:
    run = attached(engine, HEADS, adam)
    train_run(run, HEADS, 2)
    result = run.surgeon.modify_layer_width(layer_name="query", new_width=4, unit="units")
    assert result.success, result.error
    assert result.details["attributes"] | {"across": 16, "many": 4} == result.details["attributes"]
    assert (run.model.across, run.model.many, run.model.each) == (16, 4, 4)
    train_run(run, HEADS, 2)


def test_attributes_that_a_forward_writes_do_not_concern_the_log(engine: Engine) -> None:
    run = attached(engine, HEADS, adam)
    run.model.calls = 12
    run.surgeon.modify_layer_width(layer_name="query", new_width=16)
    run.model(HEADS.batch())
    assert run.capture()


def test_a_rollback_brings_integers_of_user_code_back(engine: Engine) -> None:
    run = attached(engine, HEADS, adam)
    version = run.version
    run.surgeon.modify_layer_width(layer_name="query", new_width=8)
    run.rollback(to_version=version)
    assert (run.model.across, run.model.many) == (12, 3)
    run.rollback(to_version=run.version - 1)
    assert (run.model.across, run.model.many) == (8, 2)


def test_a_width_that_the_code_fixes_is_refused_and_explained(engine: Engine) -> None:
    run = attached(engine, FIXED)
    result = run.surgeon.modify_layer_width(layer_name="enter", new_width=9)
    assert not result.success
    explained = str(run.surgeon.explain("enter"))
    assert "fixed: " in explained
    assert "free to grow" not in explained


def test_an_adapter_of_ones_own_says_what_goes_with_a_width(engine: Engine) -> None:
    @width_adapter(Scaled)
    def repair(module: Any, changes: Changes) -> WidthRepair:
        return WidthRepair({"half": changes["enter.weight", 0].new // 2})

    run = attached(engine, SCALED)
    assert run.surgeon.modify_layer_width(layer_name="enter", new_width=12).success
    assert run.model.half == 6


def test_an_adapter_is_registered_for_modules_only() -> None:
    with pytest.raises(UsageError, match="takes classes of"):
        width_adapter("Scaled")


def test_the_incoming_side_of_a_layer_can_be_named(engine: Engine) -> None:
    run = attached(engine, CUSTOM_MLP)
    assert run.surgeon.modify_layer_width(layer_name="leave", new_width=10, dimension="in").success
    assert run.model.get_submodule("leave").in_features == 10


def test_a_tensor_can_be_named_in_the_place_of_a_layer(engine: Engine) -> None:
    run = attached(engine, CUSTOM_MLP)
    assert run.surgeon.modify_layer_width(layer_name="leave.weight", new_width=10, dimension=1).success


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"new_width": 0}, "positive integer"),
        ({"new_width": 2.0}, "positive integer"),
        ({"new_width": 10**308}, "beyond all memory"),
        ({"new_width": True}, "positive integer"),
        ({"new_width": 9, "unit": "rows"}, "unit is one of"),
        ({"new_width": 9, "dimension": "depth"}, "dimension is"),
        ({"new_width": 9, "initialization": "ones"}, "initialization is one of"),
    ],
)
def test_a_wrong_argument_is_one_clear_error(arguments: dict[str, Any], message: str, engine: Engine) -> None:
    run = attached(engine, CUSTOM_MLP)
    version = run.version
    with pytest.raises(UsageError, match=message):
        run.surgeon.modify_layer_width(layer_name="enter", **arguments)
    assert run.version == version


@pytest.mark.parametrize(
    ("importance", "message"),
    [
        (lambda model, group: torch.ones(3), r"shape \(8,\)"),
        (lambda model, group: torch.ones(8, 1), r"shape \(8,\)"),
        (lambda model, group: torch.ones(8, dtype=torch.complex64), "complex64"),
        (lambda model, group: torch.full((8,), float("nan")), "not finite"),
        (lambda model, group: "much", "importance failed"),
        (lambda model, group: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_wrong_importance_is_one_clear_error(
    importance: Callable[[nn.Module, WidthGroup], Any], message: str, engine: Engine
) -> None:
    run = attached(engine, CUSTOM_MLP)
    fingerprint = run.fingerprint
    with pytest.raises(UsageError, match=message):
        run.surgeon.modify_layer_width(layer_name="enter", new_width=4, importance=importance)
    assert run.fingerprint == fingerprint


def test_importance_may_be_a_list_of_integers(engine: Engine) -> None:
    run = attached(engine, CUSTOM_MLP)
    result = run.surgeon.modify_layer_width(
        layer_name="enter", new_width=3, importance=lambda model, group: [0, 9, 1, 8, 2, 7, 3, 3]
    )
    assert result.details["kept_units"] == (1, 3, 5)


@pytest.mark.parametrize("width", [10**11, 10**30])
def test_an_absurd_width_is_refused_by_arithmetic(width: int, engine: Engine) -> None:
    result = attached(engine, CUSTOM_MLP).surgeon.modify_layer_width(layer_name="enter", new_width=width)
    assert (result.success, result.check) == (False, "memory")
    assert "are free" in (result.error or "")


def test_a_width_beyond_the_limit_on_parameters_is_refused_before_it_is_made(engine: Engine) -> None:
    limits = SurgeryConstraints(max_width_multiplier=1e9, max_parameter_increase=4)
    run = attached(engine, CUSTOM_MLP, constraints=limits)
    result = run.surgeon.modify_layer_width(layer_name="enter", new_width=10**6)
    assert (result.success, result.check) == (False, "max_parameter_increase")


def test_an_absurd_new_layer_is_refused_by_arithmetic(engine: Engine) -> None:
    spec = {"type": "linear", "in_features": 8, "out_features": 10**11}
    result = attached(engine, CUSTOM_MLP).surgeon.add_layer(
        after_layer="enter", new_layer=spec, layer_name="huge"
    )
    assert (result.success, result.check) == (False, "memory")


@pytest.mark.parametrize("initialization", ["function_preserving", "kaiming", "xavier", "net2wider"])
@pytest.mark.parametrize(
    ("zoolet", "layer", "width"), [(NESTED_MLP, "0", 17), (CONV_NET, "conv1", 20), (RESNET, "stem.0", 9)]
)
def test_every_preserving_initialization_keeps_the_function(
    zoolet: Zoolet, layer: str, width: int, initialization: str, engine: Engine
) -> None:
    run = attached(engine, zoolet, adam)
    train_run(run, zoolet, 2)
    result = run.surgeon.modify_layer_width(layer_name=layer, new_width=width, initialization=initialization)
    assert result.details["output_difference"] < 1e-6


def test_split_units_part_ways(engine: Engine) -> None:
    run = attached(engine, CUSTOM_MLP, adam)
    run.surgeon.modify_layer_width(layer_name="enter", new_width=16, initialization="net2wider")
    train_run(run, CUSTOM_MLP, 3)
    assert len(torch.unique(run.model.get_parameter("enter.weight"), dim=0)) == 16


def test_zeros_behind_a_relu_would_never_learn_and_are_refused(engine: Engine) -> None:
    result = attached(engine, NESTED_MLP).surgeon.modify_layer_width(
        layer_name="0", new_width=12, initialization="zeros"
    )
    assert (result.success, result.check) == (False, "dead_units")


def test_zeros_under_a_weight_norm_are_refused_for_what_they_do_there(engine: Engine) -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(6, 8))
    model = nn.Sequential(layer, nn.Tanh(), nn.Linear(8, 3))
    blueprint("tests/weight-norm-and-zeros")(lambda: copy.deepcopy(model))
    run = engine.attach(model, "model", (torch.randn(4, 6),), blueprint="tests/weight-norm-and-zeros")
    result = run.surgeon.modify_layer_width(
        layer_name="2", new_width=12, dimension="in", initialization="zeros"
    )
    assert "4 of 4 new units" in str(result.error)
    assert "gradients that are not numbers" in str(result.error)


def test_zeros_where_the_activation_has_a_slope_learn(engine: Engine) -> None:
    run = attached(
        engine, Zoolet("tanh", lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), (6,))
    )
    result = run.surgeon.modify_layer_width(layer_name="0", new_width=12, initialization="zeros")
    assert result.details["output_difference"] < 1e-6
    assert not run.model.get_parameter("0.weight")[8:].any()


class Tutorial(nn.Module):
    """A stream that is scaled by the root of its width, as Vaswani et al. 2017 scale embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Embedding(11, 8)
        self.leave = nn.Linear(8, 3)
        self.d_model = 8

    def forward(self, x: Tensor) -> Tensor:
        left: Tensor = self.leave(self.enter(x) * self.d_model**0.5)
        return left


def test_a_width_that_only_scales_the_outputs_stays_for_the_function_to_stay(engine: Engine) -> None:
    blueprint("tests/tutorial")(Tutorial)
    run = engine.attach(
        Tutorial(),
        name="tutorial",
        example_inputs=(torch.arange(10).view(2, 5),),
        blueprint="tests/tutorial",
    )
    result = run.surgeon.modify_layer_width(layer_name="enter", new_width=12)
    assert result.details["output_difference"] < 1e-6
    assert run.model.d_model == 8


def test_an_importance_that_runs_the_model_leaves_it_as_it_was_and_may_use_gradients(engine: Engine) -> None:
    x = torch.randn(4, 6)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    run = engine.attach(model, "normed", (x,), adam(model))
    before = run.state_fingerprint

    def taylor(model: nn.Module, group: WidthGroup) -> torch.Tensor:
        model.train()(x).sum().backward()
        weight = model.get_parameter("0.weight")
        assert weight.grad is not None
        return (weight * weight.grad).sum(1).abs()

    result = run.surgeon.modify_layer_width(layer_name="0", new_width=6, importance=taylor)
    assert result.success
    assert result.undo_version is not None
    run.rollback(result.undo_version)
    assert run.state_fingerprint == before
