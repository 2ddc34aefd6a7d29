"""The legal moment for a change: between two training steps; inference mode does no harm."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from models import NESTED_MLP
from training import adam, attached, gradients, train_run

from esper_es import AlphaSchedule, Engine, Run, SurgeryResult, UsageError, fingerprint

CHANGES: dict[str, Callable[[Run], SurgeryResult]] = {
    "surgery": lambda run: run.surgeon.modify_layer_width(layer_name="0", new_width=12),
    "germination": lambda run: run.seeds.germinate("seed", "mlp"),
    "planting": lambda run: run.seeds.plant("other", "0"),
    "rollback": lambda run: run.rollback(2),
}


def with_seed(engine: Engine) -> Run:
    run = attached(engine, NESTED_MLP, adam)
    run.seeds.plant("seed", "1")
    train_run(run, NESTED_MLP)
    return run


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_inside_a_backward_pass_is_refused(change: str, engine: Engine) -> None:
    run = with_seed(engine)
    results: list[SurgeryResult] = []
    weight: Any = run.model.get_parameter("0.weight")
    hook = weight.register_hook(lambda _: results.append(CHANGES[change](run)))
    gradients(run.model, NESTED_MLP.batch())
    hook.remove()
    assert [(result.success, result.check) for result in results] == [(False, "moment")]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_under_autocast_is_refused(change: str, engine: Engine) -> None:
    run = with_seed(engine)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert CHANGES[change](run).check == "moment"


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("change", CHANGES)
def test_a_model_changed_without_gradients_trains_on(
    change: str, mode: Callable[[], torch.autograd.grad_mode.inference_mode], engine: Engine
) -> None:
    run = with_seed(engine)
    with mode():
        assert CHANGES[change](run).success
    train_run(run, NESTED_MLP, 2)


def test_a_model_attached_and_ticked_in_inference_mode_trains_on(engine: Engine) -> None:
    with torch.inference_mode():
        x = NESTED_MLP.batch()
    model = NESTED_MLP.build()
    with torch.inference_mode():
        run = engine.attach(model, name="model", example_inputs=(x,), optimizer=adam(model))
        run.seeds.plant("seed", "1")
        run.seeds.germinate("seed", "lora")
        run.seeds.advance("seed")
        run.epoch_end()
        run.seeds.advance("seed", schedule=AlphaSchedule(epochs=2))
        run.epoch_end()
    train_run(run, NESTED_MLP, 2)
    assert float(run.model.get_buffer("seed.alpha")) == 0.5


OUTSIDE: dict[str, Callable[[Run], object]] = {
    "a new module": lambda run: run.model.add_module("stranger", torch.nn.ReLU()),
    "another dtype": lambda run: run.model.double(),
    "a replaced layer": lambda run: setattr(run.model, "1", torch.nn.Tanh()),
    "a resized parameter": lambda run: setattr(
        run.model.get_parameter("0.weight"), "data", torch.zeros(9, 6)
    ),
}


@pytest.mark.parametrize("change", OUTSIDE)
def test_a_model_changed_behind_the_logs_back_is_not_operated_on(change: str, engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    OUTSIDE[change](run)
    version = run.version
    with pytest.raises(ValueError, match="changed outside of its run"):
        run.surgeon.modify_layer_width(layer_name="2.0", new_width=12)
    with pytest.raises(ValueError, match="changed outside of its run"):
        run.capture()
    assert run.version == version


def test_freezing_and_training_flags_are_the_users_to_change(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    run.model.eval().requires_grad_(False)
    assert run.surgeon.modify_layer_width(layer_name="2.0", new_width=12).success


def test_a_model_replayed_in_inference_mode_can_be_trained(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    with torch.inference_mode():
        module = engine.replay("model")
    assert fingerprint(module) == run.fingerprint
    module(NESTED_MLP.batch()).sum().backward()


def test_a_model_built_in_inference_mode_is_refused_naming_a_tensor(engine: Engine) -> None:
    with torch.inference_mode():
        model = NESTED_MLP.build()
    with pytest.raises(UsageError, match=r"'0\.weight' was made under torch\.inference_mode"):
        engine.attach(model, name="model", example_inputs=(NESTED_MLP.batch(),))


def test_an_average_copied_in_inference_mode_is_refused_naming_a_tensor(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    with torch.inference_mode():
        average = copy.deepcopy(run.model)
    with pytest.raises(UsageError, match=r"'0\.weight' was made under torch\.inference_mode"):
        run.follow(average)
