"""Removing layers that connections end in, hold the projections of, or lie inside of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import NESTED_MLP, RESNET
from torch import nn
from torch.nn import functional as F
from training import adam, attached, train_run

from esper_es import Engine, Run, blueprint, fingerprint


def sequence() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 10), nn.Tanh(), nn.Linear(10, 3))


def with_a_projected_skip(engine: Engine, target: str = "2", connection_type: str = "add") -> tuple[Run, str]:
    run = attached(engine, NESTED_MLP, adam, model=sequence())
    skip = run.surgeon.add_skip_connection(from_layer="0", to_layer=target, connection_type=connection_type)
    train_run(run, NESTED_MLP, 2)
    return run, skip.details["projection"]


@pytest.mark.parametrize("strategy", ["direct", "learned"])
@pytest.mark.parametrize("connection_type", ["add", "concat"])
@pytest.mark.parametrize("target", ["2", "3"])
def test_the_projection_of_a_skip_outlives_the_layer_that_holds_it(
    target: str, connection_type: str, strategy: str, engine: Engine
) -> None:
    run, projection = with_a_projected_skip(engine, target, connection_type)
    before = list(run.model.get_submodule(projection).parameters())
    assert run.surgeon.remove_layer(layer_name=target, bridge_strategy=strategy).success
    after = list(run.model.get_submodule(projection).parameters())
    assert len(after) == len(before) > 0
    assert all(one is other for one, other in zip(before, after, strict=True))


def test_a_skip_joins_what_stands_in_the_place_of_the_layer_that_held_its_projection(engine: Engine) -> None:
    run, projection = with_a_projected_skip(engine)
    net: Any = run.model
    assert run.surgeon.remove_layer(layer_name="2").success
    x = NESTED_MLP.batch()
    one = net[0](x)
    bridged = F.linear(torch.relu(one), net[2].weight, net[2].bias)
    expected = net[4](torch.tanh(bridged + net.get_submodule(projection)(one)))
    torch.testing.assert_close(run.model(x), expected)


def test_the_optimizer_state_of_a_kept_projection_stays(engine: Engine) -> None:
    run, projection = with_a_projected_skip(engine)
    optimizer: Any = run.session.live.optimizer
    weight = run.model.get_parameter(f"{projection}.weight")
    before = optimizer.state[weight]["exp_avg"].clone()
    assert run.surgeon.remove_layer(layer_name="2").success
    assert torch.equal(optimizer.state[weight]["exp_avg"], before)


@pytest.mark.parametrize("strategy", ["direct", "learned"])
def test_a_removal_around_a_projection_replays_and_rolls_back_exactly(strategy: str, engine: Engine) -> None:
    run, _ = with_a_projected_skip(engine)
    before = run.state_fingerprint
    result = run.surgeon.remove_layer(layer_name="2", bridge_strategy=strategy)
    train_run(run, NESTED_MLP, 2)
    run.capture()
    assert fingerprint(engine.replay("model")) == run.fingerprint
    assert result.undo_version is not None
    run.rollback(result.undo_version)
    assert run.state_fingerprint == before
    train_run(run, NESTED_MLP, 2)


def test_a_skip_can_be_removed_after_the_layer_that_held_its_projection(engine: Engine) -> None:
    run, _ = with_a_projected_skip(engine, "3")
    assert run.surgeon.remove_layer(layer_name="3").success
    assert run.surgeon.remove_skip_connection(from_layer="0", to_layer="3").success
    assert run.surgeon.remove_layer(layer_name="3").success
    assert [name for name, _ in run.model.named_children()] == ["0", "1", "2", "4"]


def test_of_two_projections_inside_one_layer_neither_is_dropped(engine: Engine) -> None:
    run, _ = with_a_projected_skip(engine)
    assert run.surgeon.add_skip_connection(from_layer="1", to_layer="2").success
    result = run.surgeon.remove_layer(layer_name="2")
    assert (result.success, result.check) == (False, "connection")
    assert "'skip:0->2', 'skip:1->2'" in str(result.error)


def test_what_was_built_upon_a_projection_does_not_go_with_the_layer_that_holds_both(engine: Engine) -> None:
    run, projection = with_a_projected_skip(engine)
    run.surgeon.add_layer(after_layer=projection, new_layer=nn.Tanh(), layer_name="extra")
    result = run.surgeon.remove_layer(layer_name="2")
    assert (result.success, result.check) == (False, "connection")
    assert "'skip:0->2', 'after:2.extra'" in str(result.error)


def test_a_dormant_seed_on_a_projection_stays_with_it(engine: Engine) -> None:
    run, projection = with_a_projected_skip(engine)
    run.seeds.plant("seed", layer=projection)
    assert run.surgeon.remove_layer(layer_name="2").success
    run.seeds.germinate("seed", kernel="mlp")
    train_run(run, NESTED_MLP, 2)


def test_no_bridge_stands_in_for_the_projection_of_a_skip(engine: Engine) -> None:
    run, projection = with_a_projected_skip(engine, connection_type="concat")
    result = run.surgeon.remove_layer(layer_name=projection, bridge_strategy="learned")
    assert (result.success, result.check) == (False, "connection")
    assert run.surgeon.remove_layer(layer_name=projection, bridge_strategy="direct").success


def test_a_learned_bridge_does_what_the_layer_did_without_what_a_skip_adds(engine: Engine) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3))
    run = engine.attach(model, "model", (torch.randn(200, 6),))
    run.surgeon.add_skip_connection(from_layer="0", to_layer="2")
    x = torch.randn(50, 6)
    before = model(x)
    assert run.surgeon.remove_layer(layer_name="2", bridge_strategy="learned").success
    torch.testing.assert_close(model(x), before, atol=0.01, rtol=0.01)


def test_a_skip_inside_a_block_goes_with_the_block(engine: Engine) -> None:
    run = attached(engine, RESNET, adam)
    skip = run.surgeon.add_skip_connection(from_layer="blocks.1.conv1", to_layer="blocks.1.conv2")
    train_run(run, RESNET, 2)
    before = run.state_fingerprint
    result = run.surgeon.remove_layer(layer_name="blocks.1")
    assert (skip.success, result.success, run.architecture.connections) == (True, True, ())
    train_run(run, RESNET, 2)
    run.capture()
    assert fingerprint(engine.replay("model")) == run.fingerprint
    assert result.undo_version is not None
    run.rollback(result.undo_version)
    assert run.state_fingerprint == before


class Outer(nn.Module):
    """A sequence inside of something that is none."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 6))
        self.leave = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.leave(self.body(x))
        return y


def with_a_skip_in_a_sequence_of_a_model(engine: Engine) -> Run:
    blueprint("tests/outer")(Outer)
    run = engine.attach(Outer(), "model", (torch.randn(5, 6),), blueprint="tests/outer")
    assert run.surgeon.add_skip_connection(from_layer="body.0", to_layer="body.2").success
    return run


def test_the_projection_of_a_skip_inside_a_block_goes_with_it_wherever_it_lies(engine: Engine) -> None:
    run = with_a_skip_in_a_sequence_of_a_model(engine)
    assert run.surgeon.remove_layer(layer_name="body").success
    assert {name for name, _ in run.model.named_children()} == {"body", "leave"}


def test_a_projection_that_something_else_was_built_upon_does_not_go_with_a_block(engine: Engine) -> None:
    run = with_a_skip_in_a_sequence_of_a_model(engine)
    run.surgeon.add_layer(after_layer="skip_body_0_to_body_2", new_layer=nn.Tanh(), layer_name="extra")
    result = run.surgeon.remove_layer(layer_name="body")
    assert (result.success, result.check) == (False, "connection")
    assert "'after:extra' was built upon 'skip_body_0_to_body_2'" in str(result.error)


def test_a_layer_inserted_in_a_block_goes_with_the_block(engine: Engine) -> None:
    run = attached(engine, RESNET)
    run.surgeon.add_layer(after_layer="blocks.1.conv1", new_layer=nn.Tanh(), layer_name="extra")
    assert run.surgeon.remove_layer(layer_name="blocks.1").success
    assert run.model(RESNET.batch()).shape == (4, 3)
