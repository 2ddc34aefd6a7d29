"""Inserting layers: in sequences, under custom forwards, as residual branches."""

from __future__ import annotations

import pytest
import torch
from models import CONV_NET, CUSTOM_MLP, NESTED_CNN, NESTED_MLP, RESNET, TIED_NET, Zoolet
from torch import nn
from training import adam, attached, part_of, train_run

from esper_es import Engine, UsageError, blueprint
from esper_es.domain.facts import LayerAdded

CONV6 = {"type": "conv2d", "in_channels": 6, "out_channels": 6}
CONV4 = {"type": "conv2d", "in_channels": 4, "out_channels": 4}
LINEAR8 = {"type": "linear", "in_features": 8, "out_features": 8}

PLACES = [
    (NESTED_MLP, "0", LINEAR8, "new"),
    (NESTED_MLP, "2.1", LINEAR8, "2.new"),
    (NESTED_CNN, "2", CONV6, "new"),
    (CUSTOM_MLP, "enter", LINEAR8, "new"),
    (CONV_NET, "conv2", CONV6, "new"),
    (RESNET, "stem", CONV4, "new"),
    (RESNET, "stem.2", CONV4, "stem.new"),
    (RESNET, "blocks.0.bn1", CONV4, "blocks.0.new"),
    (RESNET, "blocks.0", CONV4, "blocks.new"),
]
EVERYWHERE = pytest.mark.parametrize(
    ("zoolet", "after", "spec", "path"),
    PLACES,
    ids=lambda value: getattr(value, "name", None) or str(value)[:14],
)


@EVERYWHERE
def test_a_layer_given_as_a_spec_starts_as_an_identity(
    zoolet: Zoolet, after: str, spec: dict[str, object], path: str, engine: Engine
) -> None:
    run = attached(engine, zoolet, adam)
    x = zoolet.batch()
    before = run.model.eval()(x)
    result = run.surgeon.add_layer(after_layer=after, new_layer=spec, layer_name="new")
    assert (result.success, result.details["path"]) == (True, path)
    assert torch.equal(run.model.eval()(x), before)


@EVERYWHERE
def test_a_residual_layer_starts_by_adding_nothing_and_learns(
    zoolet: Zoolet, after: str, spec: dict[str, object], path: str, engine: Engine
) -> None:
    run = attached(engine, zoolet, adam)
    x = zoolet.batch()
    before = run.model.eval()(x)
    assert run.surgeon.add_layer(
        after_layer=after, new_layer=spec, layer_name="new", connection_type="residual"
    ).success
    assert torch.equal(run.model.eval()(x), before)
    train_run(run, zoolet)
    assert bool(run.model.get_parameter(f"{path}.body.weight").any())


@EVERYWHERE
def test_the_new_layer_is_run(
    zoolet: Zoolet, after: str, spec: dict[str, object], path: str, engine: Engine
) -> None:
    run = attached(engine, zoolet)
    x = zoolet.batch()
    before = run.model.eval()(x)
    run.surgeon.add_layer(after_layer=after, new_layer=spec, layer_name="new")
    with torch.no_grad():
        run.model.get_parameter(f"{path}.weight").mul_(-1.0)
    assert not torch.equal(run.model.eval()(x), before)


def test_a_module_with_weights_of_its_own_joins_as_a_residual_that_adds_nothing_and_learns(
    engine: Engine,
) -> None:
    run = attached(engine, NESTED_MLP, adam)
    x = NESTED_MLP.batch()
    before = run.model.eval()(x)
    given = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
    result = run.surgeon.add_layer(
        after_layer="0", new_layer=given, layer_name="new", connection_type="residual"
    )
    assert result.success
    assert torch.equal(run.model.eval()(x), before)
    train_run(run, NESTED_MLP)
    train_run(run, NESTED_MLP)
    assert run.model.get_parameter("new.gate").item() != 0.0
    assert not torch.equal(run.model.get_parameter("new.body.0.weight"), given[0].weight)


def test_a_module_keeps_its_own_bytes(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    given = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    with torch.no_grad():
        given.get_buffer("1.running_mean").fill_(0.25)
    run.surgeon.add_layer(after_layer="0", new_layer=given, layer_name="new")
    inserted = part_of(run, "new")
    assert all(torch.equal(t, inserted.state_dict()[name]) for name, t in given.state_dict().items())


def test_layers_inserted_one_behind_another_run_in_that_order(engine: Engine) -> None:
    run = attached(engine, CONV_NET)
    x = CONV_NET.batch()
    for name, layer in (("first", nn.Tanh()), ("second", nn.Softsign())):
        run.surgeon.add_layer(after_layer="conv1", new_layer=layer, layer_name=name)
    expected = torch.nn.functional.softsign(torch.tanh(nn.Conv2d.forward(part_of(run, "conv1"), x)))
    assert torch.equal(part_of(run, "conv1")(x), expected)


def test_a_layer_can_be_inserted_behind_one_that_was_inserted(engine: Engine) -> None:
    run = attached(engine, CONV_NET)
    run.surgeon.add_layer(after_layer="conv1", new_layer=CONV6, layer_name="first")
    result = run.surgeon.add_layer(after_layer="first", new_layer=CONV6, layer_name="second")
    assert result.success
    assert run.model(CONV_NET.batch()).shape == (4, 10)


def test_behind_a_layer_that_is_called_twice_the_new_one_is_called_twice(engine: Engine) -> None:
    run = attached(engine, TIED_NET)
    calls: list[int] = []
    result = run.surgeon.add_layer(after_layer="shared", new_layer=nn.Tanh(), layer_name="new")
    assert result.success
    part_of(run, "new").register_forward_hook(lambda *_: calls.append(1))
    run.model(TIED_NET.batch())
    assert len(calls) == 2


def test_a_second_name_of_a_shared_layer_is_pointed_to_the_first(engine: Engine) -> None:
    run = attached(engine, TIED_NET)
    result = run.surgeon.add_layer(after_layer="again", new_layer=nn.Tanh(), layer_name="new")
    assert (result.success, result.check) == (False, "shared_module")
    assert "'shared'" in (result.error or "")


class Listed(nn.Module):
    """Iterates over a list of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


def test_a_list_of_layers_that_is_iterated_over_gets_no_new_member(engine: Engine) -> None:
    blueprint("tests/listed")(Listed)
    run = attached(engine, Zoolet("listed", Listed, (6,), "tests/listed"))
    result = run.surgeon.add_layer(after_layer="layers.0", new_layer=nn.Tanh(), layer_name="new")
    assert (result.success, result.details["path"]) == (True, "new")
    assert len(part_of(run, "layers")) == 2


def test_a_layer_that_never_runs_is_refused(engine: Engine) -> None:
    run = attached(engine, Zoolet("attention", _Attention, (5, 8), "tests/attention"))
    result = run.surgeon.add_layer(after_layer="attend.out_proj", new_layer=nn.ReLU(), layer_name="new")
    assert (result.success, result.check) == (False, "not_executed")


class _Attention(nn.Module):
    """Its attention layer reads the weights of ``out_proj`` and never calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.leave = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.leave(self.attend(x, x, x)[0])
        return y


blueprint("tests/attention")(_Attention)


def test_behind_a_layer_that_returns_a_tuple_the_first_tensor_goes_through_the_new_one(
    engine: Engine,
) -> None:
    run = attached(engine, Zoolet("attention", _Attention, (5, 8), "tests/attention"))
    result = run.surgeon.add_layer(after_layer="attend", new_layer=nn.Tanh(), layer_name="new")
    assert result.success
    x = torch.randn(2, 5, 8)
    attended, weights = part_of(run, "attend")(x, x, x)
    assert float(attended.detach().abs().max()) <= 1.0
    assert weights.shape == (2, 5, 5)


def test_the_fact_records_how_much_the_output_changed(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    x = run.session.examples.calls[0].args[0]
    before = run.model.eval()(x)
    result = run.surgeon.add_layer(after_layer="0", new_layer=nn.Linear(8, 8), layer_name="new")
    change = float((run.model(x) - before).detach().abs().max() / before.detach().abs().max())
    assert result.details["output_difference"] == pytest.approx(change, rel=1e-4)
    fact = engine.history("model")[-1].fact
    assert isinstance(fact, LayerAdded)
    assert fact.effects.output_difference == result.details["output_difference"]


class Encoder(nn.Module):
    """Around a layer that in evaluation reads the weights of its own layers and calls none of them."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.leave = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.leave(self.encode(x))
        return y


blueprint("tests/encoder")(Encoder)
ENCODER = Zoolet("encoder", Encoder, (5, 8), "tests/encoder")


def test_what_is_added_inside_a_fused_encoder_layer_is_run_in_evaluation_too(engine: Engine) -> None:
    run = attached(engine, ENCODER)
    x = ENCODER.batch()
    run.surgeon.add_layer(after_layer="encode.linear1", new_layer=nn.Tanh(), layer_name="new")
    run.surgeon.add_skip_connection(from_layer="encode.norm1", to_layer="encode.linear2")
    observed = run.model.eval()(x)
    with torch.no_grad():
        torch.testing.assert_close(run.model(x), observed)


def test_when_nothing_is_added_any_more_the_fused_path_is_taken_again(engine: Engine) -> None:
    run = attached(engine, ENCODER)
    run.surgeon.add_layer(after_layer="encode.linear1", new_layer=nn.Tanh(), layer_name="new")
    run.rollback(2)
    assert all(not part._forward_hooks for part in run.model.modules())


def test_a_layer_with_frozen_parameters_is_to_be_frozen_afterwards(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    with pytest.raises(UsageError, match="freeze it in the model afterwards"):
        run.surgeon.add_layer(
            after_layer="0", new_layer=nn.Linear(8, 8).requires_grad_(False), layer_name="new"
        )
