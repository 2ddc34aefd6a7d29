"""What a user holds on to survives surgery: modules, parameters, hooks, keys, old losses."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from models import CONV_NET, NESTED_CNN, NESTED_MLP, RESNET
from torch import nn
from training import adam, attached, gradients, optimizer_of, part_of, train_run

from esper_es import Engine


def test_a_widened_parameter_is_the_same_object(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam)
    held = weakref.ref(run.model.get_parameter("0.weight"))
    run.surgeon.modify_layer_width(layer_name="0", new_width=12)
    assert held() is run.model.get_parameter("0.weight")
    assert held().shape == (12, 6)  # type: ignore[union-attr]


def test_a_handle_to_a_layer_sees_the_surgery(engine: Engine) -> None:
    run = attached(engine, RESNET)
    held = part_of(run, "blocks.0.conv1")
    run.surgeon.modify_layer_width(layer_name="blocks.0.conv1", new_width=7)
    assert held is part_of(run, "blocks.0.conv1")
    assert held.out_channels == 7


@pytest.mark.parametrize("kind", ["forward", "gradient", "accumulated", "module backward"])
def test_hooks_of_the_user_still_fire(kind: str, engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam)
    fired: list[tuple[int, ...]] = []
    layer = part_of(run, "0")
    weight: Any = run.model.get_parameter("0.weight")
    if kind == "forward":
        layer.register_forward_hook(lambda module, args, output: fired.append(tuple(output.shape)))
    elif kind == "gradient":
        weight.register_hook(lambda gradient: fired.append(tuple(gradient.shape)))
    elif kind == "accumulated":
        weight.register_post_accumulate_grad_hook(lambda p: fired.append(tuple(p.shape)))
    else:
        relu = part_of(run, "1")
        relu.register_full_backward_hook(lambda module, given, taken: fired.append(tuple(taken[0].shape)))
    train_run(run, NESTED_MLP)
    run.surgeon.modify_layer_width(layer_name="0", new_width=12)
    before = len(fired)
    train_run(run, NESTED_MLP)
    assert len(fired) == before + 1
    assert 12 in fired[-1]


def test_hooks_of_the_user_do_not_fire_while_a_surgery_is_planned(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam)
    fired: list[str] = []
    for path, part in run.model.named_modules():
        part.register_forward_hook(lambda *_, path=path: fired.append(path))
        part.register_full_backward_hook(lambda *_, path=path: fired.append(path))
    run.surgeon.modify_layer_width(layer_name="0", new_width=12)
    run.surgeon.add_layer(after_layer="0", new_layer=nn.Linear(12, 12), layer_name="new")
    assert fired == []


def test_keys_of_untouched_layers_stay_in_the_state_dict(engine: Engine) -> None:
    run = attached(engine, NESTED_CNN, adam)
    before = list(run.model.state_dict())
    run.surgeon.add_layer(after_layer="2", new_layer=nn.Conv2d(6, 6, 1), layer_name="new")
    run.surgeon.add_skip_connection(from_layer="0", to_layer="2")
    run.surgeon.modify_layer_width(layer_name="3.0", new_width=6)
    assert [key for key in run.model.state_dict() if not key.startswith("new")] == before


def test_an_old_loss_may_be_alive_during_surgery(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam)
    optimizer_of(run).zero_grad()
    loss = gradients(run.model, NESTED_MLP.batch())
    optimizer_of(run).step()
    assert run.surgeon.modify_layer_width(layer_name="0", new_width=12).success
    assert float(loss.detach()) > 0
    train_run(run, NESTED_MLP, 2)


def test_an_old_loss_may_be_alive_during_a_rollback(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam)
    run.surgeon.modify_layer_width(layer_name="0", new_width=12)
    loss = gradients(run.model, NESTED_MLP.batch())
    assert run.rollback(2).success
    assert float(loss.detach()) > 0
    train_run(run, NESTED_MLP, 2)


def test_gradients_that_nobody_said_a_step_would_use_are_resized_along(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    gradients(run.model, NESTED_MLP.batch())
    weight = run.model.get_parameter("0.weight")
    assert weight.grad is not None
    waiting = weight.grad.clone()
    assert run.surgeon.modify_layer_width(layer_name="0", new_width=12).success
    assert torch.equal(weight.grad[:8], waiting)
    assert not weight.grad[8:].any()
    gradients(run.model, NESTED_MLP.batch())


def test_the_class_of_a_host_is_still_what_isinstance_asks_for(engine: Engine) -> None:
    run = attached(engine, CONV_NET)
    run.surgeon.add_layer(after_layer="conv1", new_layer=nn.ReLU(), layer_name="new")
    conv = part_of(run, "conv1")
    assert isinstance(conv, nn.Conv2d)
    assert conv.kernel_size == (3, 3)


def test_a_frozen_layer_stays_frozen_when_it_is_widened(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam)
    part_of(run, "0").requires_grad_(False)
    assert run.surgeon.modify_layer_width(layer_name="0", new_width=12).success
    assert not run.model.get_parameter("0.weight").requires_grad


def test_a_layer_in_training_mode_gets_neighbours_in_training_mode(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    run.model.eval()
    run.surgeon.add_layer(after_layer="0", new_layer=nn.Dropout(0.5), layer_name="new")
    assert not part_of(run, "new").training
    run.model.train()
    run.surgeon.add_layer(after_layer="0", new_layer=nn.Dropout(0.5), layer_name="newer")
    assert part_of(run, "newer").training


def test_the_layer_given_to_the_surgeon_is_copied(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    given = nn.Linear(8, 8)
    run.surgeon.add_layer(after_layer="0", new_layer=given, layer_name="new")
    inserted = part_of(run, "new")
    assert inserted is not given
    assert torch.equal(inserted.weight, given.weight)


def test_memory_format_survives_widening_and_rollback(engine: Engine) -> None:
    model: Any = CONV_NET.build()
    model.to(memory_format=torch.channels_last)
    run = attached(engine, CONV_NET, adam, model=model)
    version = run.capture()
    run.surgeon.modify_layer_width(layer_name="conv2", new_width=8)
    assert run.model.get_parameter("conv2.weight").is_contiguous(memory_format=torch.channels_last)
    run.rollback(version)
    assert run.model.get_parameter("conv2.weight").is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_new_layers_have_the_dtype_of_the_activations_around_them(dtype: torch.dtype, engine: Engine) -> None:
    run = engine.attach(
        NESTED_MLP.build().to(dtype), name="model", example_inputs=(NESTED_MLP.batch().to(dtype),)
    )
    spec = {"type": "linear", "in_features": 8, "out_features": 8}
    assert run.surgeon.add_layer(after_layer="0", new_layer=spec, layer_name="new").success
    assert run.surgeon.add_skip_connection(from_layer="0", to_layer="3").success
    assert run.surgeon.remove_layer(layer_name="2.0", bridge_strategy="learned").success
    run.seeds.plant("seed", "1")
    assert run.seeds.germinate("seed", "mlp").success
    assert {parameter.dtype for parameter in run.model.parameters()} == {dtype}
