"""Skip connections: earlier outputs added to later ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from engine.photograph import differences, photograph
from models import CONV1D_NET, CONV_NET, CUSTOM_MLP, NESTED_CNN, NESTED_MLP, RESNET, TIED_NET, Zoolet
from torch import nn
from torch.nn import functional as F
from training import adam, attached, part_of, train_run

from esper_es import Engine, SurgeryConstraints, blueprint, fingerprint
from esper_es.domain.architecture import Connection
from esper_es.domain.edits import Connect, Disconnect
from esper_es.domain.envelope import Cause
from esper_es.domain.facts import SkipConnectionRemoved
from esper_es.operations import Request, perform
from esper_es.planning.scene import Plan, Scene


def test_where_shapes_agree_the_output_is_added_as_it_is(engine: Engine) -> None:
    run = attached(engine, CONV_NET)
    net: Any = run.model
    x = CONV_NET.batch()
    one = F.conv2d(x, net.conv1.weight, net.conv1.bias, padding=1)
    two = torch.relu(net.conv2(torch.relu(one)))
    expected = net.head(torch.relu(net.conv3(two) + one).mean((2, 3)))
    assert run.surgeon.add_skip_connection(from_layer="conv1", to_layer="conv3").success
    assert torch.equal(net(x), expected)


SKIPS = [
    (CUSTOM_MLP, "enter", "leave", "skip_enter_to_leave"),
    (RESNET, "stem", "blocks.1.conv2", "blocks.1.skip_stem_to_blocks_1_conv2"),
    (NESTED_MLP, "0", "3", "3.skip_0_to_3"),
    (NESTED_CNN, "0", "3.0", "3.0.skip_0_to_3_0"),
]


@pytest.mark.parametrize(("zoolet", "source", "target", "projection"), SKIPS)
def test_where_shapes_differ_a_projection_that_starts_at_zero_keeps_the_function(
    zoolet: Zoolet,
    source: str,
    target: str,
    projection: str,
    engine: Engine,
) -> None:
    run = attached(engine, zoolet, adam)
    x = zoolet.batch()
    before = run.model.eval()(x)
    result = run.surgeon.add_skip_connection(from_layer=source, to_layer=target)
    assert (result.success, result.details["projection"]) == (True, projection)
    assert torch.equal(run.model.eval()(x), before)
    train_run(run, zoolet)
    assert bool(run.model.get_parameter(f"{projection}.weight").any())


def test_the_gradient_flows_through_a_skip_connection(engine: Engine) -> None:
    run = attached(engine, CONV_NET)
    run.surgeon.add_skip_connection(from_layer="conv1", to_layer="conv3")
    with torch.no_grad():
        run.model.get_parameter("conv3.weight").zero_()
    run.model(CONV_NET.batch()).sum().backward()
    gradient = run.model.get_parameter("conv1.weight").grad
    assert gradient is not None
    assert bool(gradient.any())


def test_several_skips_into_one_layer_all_count(engine: Engine) -> None:
    run = attached(engine, CONV_NET)
    assert run.surgeon.add_skip_connection(from_layer="conv1", to_layer="conv3").success
    assert run.surgeon.add_skip_connection(from_layer="conv2", to_layer="conv3").success
    assert [c.order for c in run.architecture.skips()] == [0, 1]
    assert run.model(CONV_NET.batch()).shape == (4, 10)


def test_the_same_skip_twice_is_refused(engine: Engine) -> None:
    run = attached(engine, CONV_NET)
    run.surgeon.add_skip_connection(from_layer="conv1", to_layer="conv3")
    result = run.surgeon.add_skip_connection(from_layer="conv1", to_layer="conv3")
    assert (result.success, result.check) == (False, "connection_taken")


def test_a_layer_that_runs_twice_cannot_be_the_end_of_a_skip(engine: Engine) -> None:
    run = attached(engine, TIED_NET)
    result = run.surgeon.add_skip_connection(from_layer="encode", to_layer="shared")
    assert (result.success, result.check) == (False, "called_often")


@pytest.mark.parametrize(("zoolet", "source", "target", "projection"), SKIPS)
def test_a_concatenation_keeps_function_and_widths_and_learns(
    zoolet: Zoolet, source: str, target: str, projection: str, engine: Engine
) -> None:
    run = attached(engine, zoolet, adam)
    train_run(run, zoolet, 2)
    x = zoolet.batch()
    before, state = run.model.eval()(x), run.state_fingerprint
    result = run.surgeon.add_skip_connection(from_layer=source, to_layer=target, connection_type="concat")
    assert (result.success, result.details["projection"]) == (True, projection)
    assert torch.equal(run.model.eval()(x), before)
    train_run(run, zoolet, 2)
    assert bool(run.model.get_parameter(f"{projection}.projection.weight").any())
    run.capture()
    assert fingerprint(engine.replay("model")) == run.fingerprint
    assert result.undo_version is not None
    run.rollback(result.undo_version)
    assert run.state_fingerprint == state


def test_a_concatenation_computes_what_a_projection_of_both_outputs_does(engine: Engine) -> None:
    run = attached(engine, CUSTOM_MLP)
    run.surgeon.add_skip_connection(from_layer="enter", to_layer="leave", connection_type="concat")
    net: Any = run.model
    x = torch.randn(4, 6)
    mix = net.skip_enter_to_leave.projection
    torch.nn.init.normal_(mix.weight)
    entered = F.linear(x, net.enter.weight, net.enter.bias)
    hidden = torch.relu(net.norm(net.middle(torch.relu(entered))))
    left = F.linear(hidden, net.leave.weight, net.leave.bias)
    fused = torch.cat([torch.eye(3), torch.zeros(3, 8)], 1) + mix.weight
    expected = F.linear(torch.cat([left, entered], -1), fused, mix.bias)
    torch.testing.assert_close(run.model(x), expected)


class Pyramid(nn.Module):
    """Positions that no stride maps onto one another, a vector among them."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(2, 4, 3)
        self.coarse = nn.Conv2d(4, 6, 3, stride=2)
        self.fine = nn.ConvTranspose2d(6, 5, 3, stride=2)
        self.squeeze = nn.Linear(5, 5)
        self.excite = nn.Conv2d(5, 3, 1)
        self.tokens = nn.Linear(3, 4)
        self.leave = nn.LayerNorm(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fine(torch.relu(self.coarse(torch.relu(self.enter(x)))))
        x = x * torch.sigmoid(self.squeeze(x.mean((2, 3))))[:, :, None, None]
        y: torch.Tensor = self.leave(self.tokens(self.excite(x).flatten(2).transpose(1, 2)))
        return y


blueprint("tests/pyramid")(Pyramid)
PYRAMID = Zoolet("pyramid", Pyramid, (2, 10, 10), "tests/pyramid")


@pytest.mark.parametrize("connection_type", ["add", "concat"])
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("enter", "fine"), ("coarse", "fine"), ("coarse", "squeeze"), ("squeeze", "excite"), ("excite", "tokens"),
        ("squeeze", "leave"),
    ],
)  # fmt: skip
def test_positions_are_matched_where_no_stride_does(
    source: str, target: str, connection_type: str, engine: Engine
) -> None:
    run = attached(engine, PYRAMID, adam)
    x = PYRAMID.batch()
    before, state = run.model.eval()(x), run.state_fingerprint
    result = run.surgeon.add_skip_connection(
        from_layer=source, to_layer=target, connection_type=connection_type
    )
    assert result.success, result.error
    assert torch.equal(run.model.eval()(x), before)
    train_run(run, PYRAMID, 2)
    assert bool(run.model.get_parameter(f"{result.details['projection']}.projection.weight").any())
    run.capture()
    assert fingerprint(engine.replay("model")) == run.fingerprint
    assert result.undo_version is not None
    run.rollback(result.undo_version)
    assert run.state_fingerprint == state


def test_layers_on_different_branches_are_not_connected(engine: Engine) -> None:
    run = attached(engine, RESNET)
    result = run.surgeon.add_skip_connection(from_layer="blocks.1.conv1", to_layer="blocks.1.downsample.0")
    assert (result.success, result.check) == (False, "different_branches")
    assert "does not depend on that of 'blocks.1.conv1'" in (result.error or "")


def test_an_output_that_is_written_in_place_later_is_taken_as_it_was(engine: Engine) -> None:
    layers = [nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 8), nn.Dropout(0.5, inplace=True)]
    model = nn.Sequential(*layers, nn.Linear(8, 3))
    run = attached(engine, NESTED_MLP, adam, model=model)
    x = NESTED_MLP.batch()
    with torch.no_grad():
        first = F.linear(x, model[0].weight, model[0].bias)
        expected = model[4](F.linear(torch.relu(first), model[2].weight, model[2].bias) + first)
    assert run.surgeon.add_skip_connection(from_layer="0", to_layer="2").success
    assert run.surgeon.add_skip_connection(from_layer="2", to_layer="4").success
    assert [c.join for c in run.architecture.skips()] == ["add-copy", "add-copy"]
    with torch.no_grad():
        assert torch.equal(run.model.eval()(x), expected)
    train_run(run, NESTED_MLP, 2)


def test_inputs_on_which_the_shapes_do_not_agree_are_not_broadcast(engine: Engine) -> None:
    run = attached(engine, CONV1D_NET)
    assert run.surgeon.add_skip_connection(from_layer="0", to_layer="4").success
    run.model.get_submodule("4").padding = (0,)
    with pytest.raises(RuntimeError, match="made for inputs on which the shapes agree"):
        run.model(CONV1D_NET.batch())


@pytest.mark.parametrize(
    ("source", "target", "wrong"),
    [
        ("conv3", "conv1", "would make a cycle"),
        ("conv2", "conv2", "would make a cycle"),
        ("spare", "conv3", "'spare' is never executed"),
    ],
)
def test_the_topology_validator_refuses_what_a_wrong_planner_connects(
    source: str, target: str, wrong: str, engine: Engine
) -> None:
    run = attached(engine, CONV_NET)
    run.surgeon.add_layer(after_layer="conv1", new_layer=nn.Identity(), layer_name="other")
    skip = Connection("skip:wrong", "skip", "other" if source == "spare" else source, target, None, 9, "add")

    def planner(scene: Scene) -> Plan:
        taken_off = (Disconnect("after:other"),) if source == "spare" else ()
        edits = (*taken_off, Connect(skip))
        return Plan(edits=edits, facts=lambda state, change: ())

    before = photograph(run)
    result = perform(
        run.session, Request(operation="wrong", target=target, arguments={}, cause=Cause()), planner
    )
    assert (result.success, result.check) == (False, "topology")
    assert wrong.replace("spare", "other") in (result.error or "")
    assert differences(before, photograph(run)) == []


def test_between_containers_of_a_sequence_no_projection_finds_a_place(engine: Engine) -> None:
    run = attached(engine, NESTED_CNN)
    result = run.surgeon.add_skip_connection(from_layer="0", to_layer="3")
    assert (result.success, result.check) == (False, "no_owner")


def test_an_inner_layer_can_be_connected_to_the_block_around_it(engine: Engine) -> None:
    run = attached(engine, RESNET)
    assert run.surgeon.add_skip_connection(from_layer="blocks.0.conv1", to_layer="blocks.0").success
    assert run.model(RESNET.batch()).shape == (4, 3)


def test_a_joined_layer_called_on_its_own_says_what_is_missing(engine: Engine) -> None:
    run = attached(engine, CONV_NET)
    run.surgeon.add_skip_connection(from_layer="conv1", to_layer="conv3")
    with pytest.raises(RuntimeError, match="'conv1' did not run before 'conv3'"):
        part_of(run, "conv3")(torch.randn(1, 6, 4, 4))


def test_no_output_of_one_forward_pass_reaches_the_next(engine: Engine) -> None:
    run = attached(engine, CONV_NET)
    run.surgeon.add_skip_connection(from_layer="conv1", to_layer="conv3")
    x, other = CONV_NET.batch(), CONV_NET.batch()
    expected = run.model(x)
    run.model(other)
    assert torch.equal(run.model(x), expected)


def test_a_layer_whose_forward_was_replaced_on_the_object_cannot_be_joined(engine: Engine) -> None:
    run = attached(engine, CONV_NET)
    conv: Any = run.model.get_submodule("conv3")
    conv.forward = nn.Conv2d.forward.__get__(conv)
    result = run.surgeon.add_skip_connection(from_layer="conv1", to_layer="conv3")
    assert (result.success, result.check) == (False, "replaced_forward")


@pytest.mark.parametrize(("zoolet", "source", "target", "projection"), SKIPS)
def test_a_removed_skip_leaves_the_model_as_if_it_had_never_been(
    zoolet: Zoolet, source: str, target: str, projection: str, engine: Engine
) -> None:
    run = attached(engine, zoolet, adam)
    x = zoolet.batch()
    before, structure = run.model.eval()(x), run.architecture.fingerprint
    classes = [type(part) for part in run.model.modules()]
    run.surgeon.add_skip_connection(from_layer=source, to_layer=target)
    result = run.surgeon.remove_skip_connection(from_layer=source, to_layer=target)
    assert result.success
    assert (run.architecture.fingerprint, run.architecture.skips()) == (structure, ())
    assert [type(part) for part in run.model.modules()] == classes
    assert torch.equal(run.model.eval()(x), before)


def test_the_removal_of_a_trained_skip_is_a_fact_that_rolls_back_and_replays(engine: Engine) -> None:
    run = attached(engine, CUSTOM_MLP, adam)
    run.surgeon.add_skip_connection(from_layer="enter", to_layer="leave")
    train_run(run, CUSTOM_MLP, 2)
    before = run.state_fingerprint
    result = run.surgeon.remove_skip_connection(from_layer="enter", to_layer="leave")
    assert result.details["output_difference"] > 0
    assert isinstance(engine.history("model")[-1].fact, SkipConnectionRemoved)
    train_run(run, CUSTOM_MLP, 2)
    run.capture()
    assert fingerprint(engine.replay("model")) == run.fingerprint
    assert result.undo_version is not None
    run.rollback(result.undo_version)
    assert run.state_fingerprint == before


def test_a_skip_that_is_not_there_cannot_be_removed(engine: Engine) -> None:
    run = attached(engine, CONV_NET)
    run.surgeon.add_skip_connection(from_layer="conv1", to_layer="conv3")
    result = run.surgeon.remove_skip_connection(from_layer="conv1", to_layer="conv2")
    assert (result.success, result.check) == (False, "unknown_connection")
    assert "'conv1' to 'conv3'" in (result.error or "")


def test_a_skip_on_whose_projection_a_layer_was_inserted_stays(engine: Engine) -> None:
    run = attached(engine, CUSTOM_MLP)
    run.surgeon.add_skip_connection(from_layer="enter", to_layer="leave")
    run.surgeon.add_layer(after_layer="skip_enter_to_leave", new_layer=nn.Tanh(), layer_name="extra")
    result = run.surgeon.remove_skip_connection(from_layer="enter", to_layer="leave")
    assert (result.success, result.check) == (False, "connection")


def test_a_skip_counts_against_its_limit_only_while_it_is_there(engine: Engine) -> None:
    limits = SurgeryConstraints(max_skip_connections=1, max_surgeries_per_epoch=9)
    run = attached(engine, CONV_NET, constraints=limits)
    assert run.surgeon.add_skip_connection(from_layer="conv1", to_layer="conv3").success
    assert (
        run.surgeon.add_skip_connection(from_layer="conv2", to_layer="conv3").check == "max_skip_connections"
    )
    assert run.surgeon.remove_skip_connection(from_layer="conv1", to_layer="conv3").success
    assert run.surgeon.add_skip_connection(from_layer="conv2", to_layer="conv3").success


class Pairs(nn.Module):
    """Encodes another input too, if there is one, as Siamese networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.inner, self.leave = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        hidden = self.enter(x)
        beside = 0.0 if other is None else self.leave(self.enter(other))
        made: torch.Tensor = self.leave(self.inner(hidden.tanh()))
        return made + beside


@pytest.mark.parametrize("first", ["one", "pair"])
def test_a_layer_that_runs_twice_on_any_example_ends_no_skip(first: str, engine: Engine) -> None:
    blueprint("tests/pairs")(Pairs)
    examples = [{"x": torch.randn(4, 6)}, {"x": torch.randn(4, 6), "other": torch.randn(4, 6)}]
    run = engine.attach(
        Pairs(), "model", examples if first == "one" else examples[::-1], blueprint="tests/pairs"
    )
    result = run.surgeon.add_skip_connection(from_layer="enter", to_layer="inner")
    assert result.check == "called_often"
