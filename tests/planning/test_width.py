"""Widening and narrowing: function preserved where mathematics allows, channels routed right."""

from __future__ import annotations

import pytest
import torch
from models import (
    CONV1D_NET,
    CONV_NET,
    CUSTOM_MLP,
    GROUPED_NET,
    NESTED_CNN,
    NESTED_MLP,
    RESNET,
    TIED_NET,
    Zoolet,
)
from torch import nn
from training import adam, attached, gradients, part_of, train_run

from esper_es import Engine
from esper_es.domain.edits import Fill, ResizeTensor
from esper_es.domain.facts import LayerWidthModified
from esper_es.tracing import WidthGroup

PRESERVING = [
    (NESTED_MLP, "0", 12),
    (NESTED_CNN, "0", 9),
    (CONV1D_NET, "0", 7),
    (CUSTOM_MLP, "enter", 12),
    (CONV_NET, "conv1", 10),
    (RESNET, "blocks.0.conv1", 6),
    (RESNET, "blocks.1.conv1", 12),
    (RESNET, "stem.0", 6),
    (GROUPED_NET, "pointwise", 9),
]
GROWN = pytest.mark.parametrize(
    ("zoolet", "layer", "width"), PRESERVING, ids=lambda value: getattr(value, "name", str(value))
)


@GROWN
def test_a_wider_layer_computes_what_it_did(zoolet: Zoolet, layer: str, width: int, engine: Engine) -> None:
    run = attached(engine, zoolet, adam)
    train_run(run, zoolet, 2)
    x = zoolet.batch()
    before = run.model.eval()(x)
    result = run.surgeon.modify_layer_width(layer_name=layer, new_width=width)
    assert result.success
    torch.testing.assert_close(run.model.eval()(x), before)
    assert result.details["output_difference"] < 1e-5


@GROWN
def test_every_parameter_of_a_wider_model_learns(
    zoolet: Zoolet, layer: str, width: int, engine: Engine
) -> None:
    run = attached(engine, zoolet, adam)
    run.surgeon.modify_layer_width(layer_name=layer, new_width=width)
    train_run(run, zoolet, 2)
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    train_run(run, zoolet)
    assert all(not torch.equal(p, before[name]) for name, p in run.model.named_parameters())


@GROWN
def test_narrowing_back_to_the_old_units_restores_the_function(
    zoolet: Zoolet, layer: str, width: int, engine: Engine
) -> None:
    run = attached(engine, zoolet)
    x = zoolet.batch()
    before = run.model.eval()(x)
    old = run.surgeon.modify_layer_width(layer_name=layer, new_width=width).details["old_width"]

    def first_ones(model: nn.Module, group: WidthGroup) -> torch.Tensor:
        return -torch.arange(group.units, dtype=torch.float64)

    assert run.surgeon.modify_layer_width(layer_name=layer, new_width=old, importance=first_ones).success
    torch.testing.assert_close(run.model.eval()(x), before)


def test_units_that_do_nothing_are_given_up_first(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    layer = part_of(run, "0")
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter[2::3] = 0.0
    x = NESTED_MLP.batch()
    before = run.model(x)
    result = run.surgeon.modify_layer_width(layer_name="0", new_width=6)
    assert result.details["kept_units"] == (0, 1, 3, 4, 6, 7)
    torch.testing.assert_close(run.model(x), before)


def test_a_norm_over_the_channels_is_named_and_its_difference_measured(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    result = run.surgeon.modify_layer_width(layer_name="2.0", new_width=12)
    assert result.success
    assert result.details["reduced_by"] == ["aten.native_layer_norm in 2.1"]
    assert result.details["output_difference"] > 0


def test_channels_that_a_residual_sum_joins_grow_together(engine: Engine) -> None:
    run = attached(engine, RESNET)
    result = run.surgeon.modify_layer_width(layer_name="blocks.1.conv2", new_width=10)
    assert result.success
    assert part_of(run, "blocks.1.downsample.0").out_channels == 10
    assert part_of(run, "head").in_features == 10


def test_a_depthwise_convolution_grows_with_what_feeds_it(engine: Engine) -> None:
    run = attached(engine, GROUPED_NET)
    assert run.surgeon.modify_layer_width(layer_name="grouped", new_width=12).success
    depthwise = part_of(run, "depthwise")
    assert (depthwise.groups, depthwise.in_channels, depthwise.out_channels) == (12, 12, 12)


def test_a_width_that_would_cut_a_group_in_two_is_refused_with_the_nearest(engine: Engine) -> None:
    run = attached(engine, GROUPED_NET)
    result = run.surgeon.modify_layer_width(layer_name="grouped", new_width=11)
    assert (result.success, result.check) == (False, "width_unit")
    assert "the nearest are" in (result.error or "")


def test_both_layers_of_a_tied_weight_know_its_new_width(engine: Engine) -> None:
    run = attached(engine, TIED_NET, adam)
    assert run.surgeon.modify_layer_width(layer_name="encode", new_width=8).success
    widths = {name: part_of(run, name).out_features for name in ("encode", "decode")}
    assert widths == {"encode": 8, "decode": 8}
    assert part_of(run, "shared").in_features == 8


@pytest.mark.parametrize("initialization", ["kaiming", "xavier"])
def test_with_any_initialization_new_units_learn(initialization: str, engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam)
    run.surgeon.modify_layer_width(layer_name="0", new_width=12, initialization=initialization)
    gradients(run.model, NESTED_MLP.batch())
    incoming = run.model.get_parameter("0.weight").grad
    outgoing = run.model.get_parameter("2.0.weight").grad
    assert incoming is not None
    assert outgoing is not None
    assert bool(incoming[8:].any()) or bool(outgoing[:, 8:].any())


def test_an_explanation_says_what_grows_together(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    explained = str(run.surgeon.explain("0"))
    assert "0.weight" in explained
    assert "2.0.weight" in explained


def test_what_a_widening_under_norms_brought_can_go_again_without_a_trace_in_the_outputs(
    engine: Engine,
) -> None:
    run, x = attached(engine, CUSTOM_MLP), CUSTOM_MLP.batch()
    for _ in range(3):
        before = run.model.eval()(x)
        assert run.surgeon.modify_layer_width(layer_name="middle", new_width=12).success
        narrowed = run.surgeon.modify_layer_width(
            layer_name="middle", new_width=8, importance=lambda model, group: range(group.units, 0, -1)
        )
        assert narrowed.details["method"] == "norms rescaled"
        torch.testing.assert_close(run.model.eval()(x), before)
    assert part_of(run, "norm").eps == pytest.approx(1e-5)


def test_the_mean_of_zeros_needs_no_digest(engine: Engine) -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(6, 8))
    nn.init.zeros_(model[0].bias)
    run = engine.attach(model, "model", (torch.randn(4, 8),))
    assert run.surgeon.modify_layer_width(layer_name="0", new_width=8).details["method"].startswith("mean")
    widened = engine.history("model")[-1].fact
    assert isinstance(widened, LayerWidthModified)
    fills = {edit.tensor: edit.fill for edit in widened.edits if isinstance(edit, ResizeTensor)}
    assert fills["0.bias"] == Fill("zeros")
