"""Rollback: the run, bit for bit as it was, as one more fact."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from models import CONV1D_NET, CONV_NET, NESTED_CNN, NESTED_MLP, TIED_NET, ZOO, Zoolet
from torch import nn
from training import (
    OPTIMIZERS,
    MakeOptimizer,
    adam,
    attached,
    gradients,
    optimizer_of,
    train_run,
)

from esper_es import CapturePolicy, Engine, ReplayError, Run, blueprint
from esper_es.domain.facts import RolledBack
from esper_es.projections.live.describe import describe

from .photograph import differences, photograph


def losses(run: Run, zoolet: Zoolet, steps: int = 3) -> list[float]:
    """Train, drawing batches from torch's ambient generator; return every loss."""
    found = []
    for _ in range(steps):
        optimizer_of(run).zero_grad()
        found.append(float(gradients(run.model, zoolet.batch()).detach()))
        optimizer_of(run).step()
    return found


@pytest.mark.parametrize("make_optimizer", OPTIMIZERS, ids=lambda make: make.__name__)
def test_training_resumed_after_a_rollback_is_the_training_that_followed_before(
    make_optimizer: MakeOptimizer, engine: Engine
) -> None:
    run = attached(engine, CONV1D_NET, make_optimizer)
    train_run(run, CONV1D_NET, 2)
    assert run.surgeon.modify_layer_width(layer_name="0", new_width=6).success
    version = run.capture()
    first, end = losses(run, CONV1D_NET), run.state_fingerprint
    assert run.rollback(version).success
    assert (losses(run, CONV1D_NET), run.state_fingerprint) == (first, end)


@pytest.mark.parametrize("zoolet", ZOO, ids=lambda zoolet: zoolet.name)
def test_a_rollback_to_birth_takes_every_change_back(zoolet: Zoolet, engine: Engine) -> None:
    run = attached(engine, zoolet, adam)
    born = run.state_fingerprint
    layer = next(
        path
        for path, part in run.model.named_modules()
        if isinstance(part, (nn.Linear, nn.Conv1d, nn.Conv2d))
    )
    run.surgeon.add_layer(after_layer=layer, new_layer=nn.ReLU(), layer_name="new")
    run.surgeon.remove_layer(layer_name=layer, bridge_strategy="learned")
    train_run(run, zoolet)
    assert run.rollback(2).success
    assert run.state_fingerprint == born


def test_generators_of_python_numpy_and_torch_come_back(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    version = run.capture()
    drawn = (random.random(), np.random.rand(), float(torch.rand(())))
    run.rollback(version)
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == drawn


def test_a_rollback_can_be_rolled_back(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam)
    run.surgeon.modify_layer_width(layer_name="0", new_width=12)
    train_run(run, NESTED_MLP)
    left = run.state_fingerprint
    undone = run.rollback(2)
    assert undone.undo_version is not None
    assert run.rollback(undone.undo_version).success
    assert run.state_fingerprint == left


def test_every_surgery_names_the_version_that_undoes_exactly_it(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam)
    train_run(run, NESTED_MLP)
    before = run.state_fingerprint
    result = run.surgeon.modify_layer_width(layer_name="0", new_width=12)
    assert result.undo_version is not None
    run.rollback(result.undo_version)
    assert run.state_fingerprint == before


def test_the_log_only_grows(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam)
    run.surgeon.modify_layer_width(layer_name="0", new_width=12)
    before = engine.history("model")
    run.rollback(2)
    after = engine.history("model")
    assert after[: len(before)] == before
    assert isinstance(after[-1].fact, RolledBack)


def test_a_rollback_records_what_it_measured_and_what_it_gave_up(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam)
    train_run(run, NESTED_MLP, 3)
    run.epoch_end()
    run.rollback(2, reason="too slow")
    fact = engine.history("model")[-1].fact
    assert isinstance(fact, RolledBack)
    assert (fact.to_version, fact.steps_discarded, fact.epochs_discarded, fact.trigger, fact.reason) == (
        2,
        3,
        1,
        "asked",
        "too slow",
    )
    assert fact.fingerprint == fact.expected_fingerprint == run.state_fingerprint


def test_modules_and_parameters_that_stay_are_the_same_objects(engine: Engine) -> None:
    run = attached(engine, NESTED_CNN, adam)
    objects = {path: id(part) for path, part in run.model.named_modules()}
    parameters = {name: id(parameter) for name, parameter in run.model.named_parameters()}
    run.surgeon.modify_layer_width(layer_name="0", new_width=8)
    run.surgeon.add_layer(after_layer="2", new_layer=nn.ReLU(), layer_name="new")
    run.rollback(2)
    assert {path: id(part) for path, part in run.model.named_modules()} == objects
    assert {name: id(parameter) for name, parameter in run.model.named_parameters()} == parameters


def test_a_model_with_tied_weights_and_a_shared_layer_comes_back_tied_and_shared(engine: Engine) -> None:
    run = attached(engine, TIED_NET, adam)
    train_run(run, TIED_NET)
    version = run.capture()
    seen = run.state_fingerprint
    train_run(run, TIED_NET)
    run.rollback(version)
    assert run.model.get_parameter("encode.weight") is run.model.get_parameter("decode.weight")
    assert run.model.get_submodule("shared") is run.model.get_submodule("again")
    assert run.state_fingerprint == seen


def test_gradients_of_the_timeline_given_up_are_dropped(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam)
    gradients(run.model, NESTED_MLP.batch())
    run.rollback(2)
    assert all(parameter.grad is None for parameter in run.model.parameters())


def test_a_layer_of_the_same_name_and_class_comes_back_with_all_it_derives_from_its_arguments(
    engine: Engine,
) -> None:
    run = attached(engine, CONV1D_NET)

    def circular(size: int) -> nn.Conv1d:
        return nn.Conv1d(4, 4, size, padding=size // 2, padding_mode="circular")

    run.surgeon.add_layer(after_layer="0", new_layer=circular(3), layer_name="new")
    x = CONV1D_NET.batch()
    version, expected = run.capture(), run.model.eval()(x)
    run.surgeon.remove_layer(layer_name="new")
    run.surgeon.add_layer(after_layer="0", new_layer=circular(5), layer_name="new")
    run.rollback(version)
    assert torch.equal(run.model.eval()(x), expected)


def test_a_rolled_back_layer_added_under_a_custom_forward_leaves_no_host_behind(engine: Engine) -> None:
    run = attached(engine, CONV_NET)
    classes = {path: type(part) for path, part in run.model.named_modules()}
    run.surgeon.add_skip_connection(from_layer="conv1", to_layer="conv3")
    run.surgeon.add_layer(after_layer="conv2", new_layer=nn.ReLU(), layer_name="new")
    run.rollback(2)
    assert {path: type(part) for path, part in run.model.named_modules()} == classes


def test_versions_without_a_capture_are_refused_with_the_nearest_that_have_one(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam)
    train_run(run, NESTED_MLP)
    run.epoch_end()
    run.epoch_end()
    after = run.capture()
    result = run.rollback(after - 2)
    assert (result.success, result.check) == (False, "no_capture")
    assert (
        result.error
        == f"version {after - 2} has no capture; nearest versions that have one: 2 and {after - 1}"
    )


@pytest.mark.parametrize("version", [0, -1, 99, True, "2", None, 2.0, float("nan")])
def test_what_is_no_version_is_refused(version: object, engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    result = run.rollback(version)  # type: ignore[arg-type]
    assert (result.success, result.check) == (False, "unknown_version")


def test_without_captures_before_changes_an_undo_is_refused(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam, capture=CapturePolicy(before_structural_change=False))
    train_run(run, NESTED_MLP)
    result = run.surgeon.modify_layer_width(layer_name="0", new_width=12)
    assert (result.success, result.undo_version) == (True, None)
    assert run.rollback(result.version).check == "no_capture"


def test_a_class_defined_anew_is_named_as_the_reason_why_it_cannot_be_rolled_back(engine: Engine) -> None:
    def defined() -> type[nn.Module]:
        class Notebook(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.only = nn.Linear(6, 3)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y: torch.Tensor = self.only(x)
                return y

        return Notebook

    cell = [defined()]
    blueprint("tests/notebook")(lambda: cell[0]())
    run = attached(engine, Zoolet("notebook", cell[0], (6,), "tests/notebook"))
    cell[0] = defined()
    before = photograph(run)
    with pytest.raises(ReplayError, match="was it defined anew"):
        run.rollback(2)
    assert differences(before, photograph(run)) == []


def test_a_rollback_repairs_a_model_that_was_changed_outside_of_its_run(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam)
    seen = run.state_fingerprint
    run.model.add_module("stranger", nn.ReLU())
    assert run.rollback(2).success
    assert run.state_fingerprint == seen
    assert describe(run.model).fingerprint == run.architecture.fingerprint
