"""Widths and counts as calling code has them: whatever can index a list is a whole number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from models import CONV_NET, NESTED_MLP
from torch import nn
from training import attached

from esper_es import (
    AdaptationDecision,
    CapturePolicy,
    Engine,
    SurgeryConstraints,
    UsageError,
    WatchPolicy,
    blueprint,
    fingerprint,
)


class Own:
    """A number of somebody's own."""

    def __index__(self) -> int:
        return 10


@pytest.mark.parametrize(
    "width",
    [np.int64(10), np.uint8(10), torch.tensor(10), Own()],
    ids=["numpy", "numpy, unsigned", "torch", "own"],
)
def test_a_width_may_be_whatever_stands_for_a_whole_number(width: Any, engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    result = run.surgeon.modify_layer_width(layer_name="0", new_width=width)
    assert result.success, result.error
    assert run.model.get_submodule("0").out_features == 10


def test_what_is_kept_of_a_width_is_a_plain_integer(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    result = run.surgeon.modify_layer_width(layer_name="0", new_width=np.int64(10))
    kept = (result.details["new_width"], run.model.get_submodule("0").out_features)
    assert [type(one) for one in kept] == [int, int]
    run.capture()
    assert fingerprint(engine.replay("model")) == run.fingerprint


@pytest.mark.parametrize(
    "width", [np.True_, True, torch.tensor(True), 10.0, np.float64(10.0), "10", None, torch.tensor(10.0)]
)
def test_what_only_looks_like_a_whole_number_is_no_width(width: Any, engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    with pytest.raises(UsageError, match="new_width must be a positive integer"):
        run.surgeon.modify_layer_width(layer_name="0", new_width=width)


def test_a_dimension_may_be_a_number_of_numpy(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    result = run.surgeon.modify_layer_width(layer_name="0", new_width=10, dimension=np.int32(0))  # type: ignore[arg-type]
    assert result.success, result.error


def test_a_refused_width_of_numpy_is_kept_as_the_number_that_it_is(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    run.surgeon.modify_layer_width(layer_name="nowhere", new_width=np.int64(10))  # type: ignore[arg-type]
    assert engine.history("model")[-1].fact.arguments["new_width"] == 10  # type: ignore[attr-defined]


def test_versions_may_be_numbers_of_numpy(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    version = np.int64(run.version)
    run.surgeon.modify_layer_width(layer_name="0", new_width=10)
    assert engine.replay("model", version=version)[0].out_features == 8  # type: ignore[arg-type, index]
    assert run.rollback(to_version=version).success  # type: ignore[arg-type]


def test_counts_of_limits_and_policies_may_be_numbers_of_numpy() -> None:
    three: Any = np.int64(3)
    kept = (
        SurgeryConstraints(max_layers_to_add=three).max_layers_to_add,
        CapturePolicy(keep_last=three).keep_last,
        WatchPolicy(metric="accuracy", epochs=three).epochs,
    )
    assert [type(one) for one in kept] == [int, int, int]


def test_a_decision_may_ask_for_a_width_of_numpy(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    width: Any = np.int64(10)
    decision = AdaptationDecision(
        decision_id="d", layer_name="0", adaptation_type="add_neurons", confidence=1.0,
        parameters={"new_width": width},
    )  # fmt: skip
    assert run.apply(decision).success


def test_arguments_of_a_kernel_may_be_numbers_of_numpy(engine: Engine) -> None:
    run = attached(engine, CONV_NET)
    run.seeds.plant("seed", layer="conv1")
    reduction: Any = np.int64(2)
    assert run.seeds.germinate("seed", kernel="bottleneck", reduction=reduction).success


def test_a_spec_of_a_layer_may_count_in_numbers_of_numpy(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    spec: Any = {"type": "linear", "in_features": np.int64(8), "out_features": np.int64(8)}
    assert run.surgeon.add_layer(after_layer="0", new_layer=spec, layer_name="new").success


def test_a_layer_that_was_built_with_numbers_of_numpy_can_be_inserted(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    layer = nn.Linear(np.int64(8), np.int64(8))  # type: ignore[arg-type]
    assert run.surgeon.add_layer(after_layer="0", new_layer=layer, layer_name="new").success


def test_arguments_of_a_blueprint_may_be_numbers_of_numpy(engine: Engine) -> None:
    blueprint("tests/wide")(wide)
    width: Any = np.int64(8)
    arguments = {"width": width}
    run = engine.attach(
        wide(width), "wide", (torch.randn(4, 6),), blueprint="tests/wide", blueprint_args=arguments
    )
    assert fingerprint(engine.replay("wide")) == run.fingerprint


def wide(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3))
