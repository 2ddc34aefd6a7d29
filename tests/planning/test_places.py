"""Seeds, skips and inserted layers on one another: what goes takes nothing along that somebody still stands on."""

from __future__ import annotations

import torch
from models import CONV_NET, NESTED_CNN, NESTED_MLP, RESNET, Zoolet
from torch import nn
from training import adam, attached, train_run

from esper_es import Engine, Run, fingerprint


def grown(engine: Engine, zoolet: Zoolet, layer: str) -> Run:
    run = attached(engine, zoolet, adam)
    run.seeds.plant("seed", layer)
    assert run.seeds.germinate("seed", "mlp").success
    return run


def assert_sound(engine: Engine, run: Run, zoolet: Zoolet) -> None:
    train_run(run, zoolet)
    run.capture()
    assert fingerprint(engine.replay("model")) == run.fingerprint


def test_a_skip_into_a_culled_seed_ends_in_the_layer_before_it(engine: Engine) -> None:
    run = grown(engine, CONV_NET, "conv3")
    x = CONV_NET.batch()
    assert run.surgeon.add_skip_connection(from_layer="conv1", to_layer="seed").success
    before = run.model.eval()(x)
    assert run.seeds.cull("seed").success
    assert [(c.source, c.target) for c in run.architecture.skips()] == [("conv1", "conv3")]
    assert torch.equal(run.model.eval()(x), before)
    assert_sound(engine, run, CONV_NET)


def test_a_skip_out_of_a_culled_seed_in_a_sequence_begins_in_the_layer_before_it(engine: Engine) -> None:
    run = grown(engine, NESTED_CNN, "0")
    x = NESTED_CNN.batch()
    assert run.surgeon.add_skip_connection(from_layer="seed", to_layer="2").success
    before = run.model.eval()(x)
    assert run.seeds.cull("seed").success
    assert [(c.source, c.target) for c in run.architecture.skips()] == [("0", "2")]
    assert torch.equal(run.model.eval()(x), before)
    assert_sound(engine, run, NESTED_CNN)


def test_a_skip_from_a_layer_into_its_own_seed_goes_with_the_seed(engine: Engine) -> None:
    run = grown(engine, NESTED_MLP, "0")
    assert run.surgeon.add_skip_connection(from_layer="0", to_layer="seed").success
    assert run.seeds.cull("seed").success
    assert run.architecture.connections == ()
    assert_sound(engine, run, NESTED_MLP)


def test_a_skip_at_a_seed_can_be_removed(engine: Engine) -> None:
    run = grown(engine, CONV_NET, "conv3")
    run.surgeon.add_skip_connection(from_layer="conv1", to_layer="seed")
    assert run.surgeon.remove_skip_connection(from_layer="conv1", to_layer="seed").success
    assert run.seeds.cull("seed").success


def test_an_inserted_layer_that_a_skip_ends_in_is_bypassed(engine: Engine) -> None:
    run = attached(engine, CONV_NET, adam)
    run.surgeon.add_layer(after_layer="conv3", new_layer=nn.Tanh(), layer_name="new")
    run.surgeon.add_skip_connection(from_layer="conv1", to_layer="new")
    assert run.surgeon.remove_layer(layer_name="new").success
    assert len(run.architecture.skips()) == 1
    assert_sound(engine, run, CONV_NET)


def test_a_removed_layer_keeps_the_place_of_a_dormant_seed(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam)
    run.seeds.plant("seed", "2.1")
    assert run.surgeon.remove_layer(layer_name="2.1").success
    assert run.seeds.germinate("seed", "mlp").success
    assert_sound(engine, run, NESTED_MLP)


def test_a_layer_inside_of_which_a_dormant_seed_stands_is_not_removed(engine: Engine) -> None:
    run = attached(engine, RESNET)
    run.seeds.plant("seed", "blocks.0.conv1")
    result = run.surgeon.remove_layer(layer_name="blocks.0")
    assert (result.success, result.check) == (False, "seed")
    assert "'seed' (DORMANT) stands on 'blocks.0.conv1'" in (result.error or "")
