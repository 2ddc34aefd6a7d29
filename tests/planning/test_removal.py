"""Removing layers: what is let through, and what bridges the gap."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from models import CONV_NET, CUSTOM_MLP, NESTED_CNN, NESTED_MLP, RESNET, TIED_NET, Zoolet
from torch import nn
from training import adam, attached, part_of, train_run

from esper_es import Engine, UsageError, blueprint
from esper_es.domain.facts import LayerRemoved


def test_in_a_sequence_a_layer_that_keeps_the_shape_is_simply_gone(engine: Engine) -> None:
    run = attached(engine, NESTED_CNN)
    expected = nn.Sequential(*(child for name, child in run.model.named_children() if name != "2"))
    x = NESTED_CNN.batch()
    result = run.surgeon.remove_layer(layer_name="2")
    assert (result.success, result.details["adapter_added"]) == (True, False)
    assert [name for name, _ in run.model.named_children()] == ["0", "1", "3", "4", "5", "6"]
    assert torch.equal(run.model.eval()(x), expected.eval()(x))


def test_under_a_custom_forward_its_input_is_let_through(engine: Engine) -> None:
    run = attached(engine, CONV_NET)
    assert run.surgeon.remove_layer(layer_name="conv2").success
    x = torch.randn(4, 6, 8, 8)
    assert part_of(run, "conv2")(x) is x
    assert run.model(CONV_NET.batch()).shape == (4, 10)


def test_where_shapes_differ_an_adapter_that_cuts_or_pads_stands_in(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    result = run.surgeon.remove_layer(layer_name="0")
    assert (result.success, result.details["adapter_added"]) == (True, True)
    adapter = part_of(run, "0")
    assert torch.equal(adapter.weight, torch.eye(8, 6))
    assert not bool(adapter.bias.any())


def test_a_learned_bridge_over_an_affine_layer_computes_what_the_layer_did(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    x = NESTED_MLP.batch(64)
    before = run.model.eval()(x)
    result = run.surgeon.remove_layer(
        layer_name="0", bridge_strategy="learned", calibration=[NESTED_MLP.batch(64)]
    )
    assert result.details["bridge_r2"] == pytest.approx(1.0, abs=1e-3)
    torch.testing.assert_close(run.model.eval()(x), before, atol=0.02, rtol=0.02)


def test_calibration_makes_a_learned_bridge_fit_better(engine: Engine) -> None:
    x = NESTED_MLP.batch(256)
    errors = []
    for number, calibration in enumerate(([], [NESTED_MLP.batch(256)])):
        torch.manual_seed(3)
        run = attached(engine, NESTED_MLP, name=f"model{number}")
        before = run.model.eval()(x)
        run.surgeon.remove_layer(layer_name="2", bridge_strategy="learned", calibration=calibration)
        errors.append(float((run.model.eval()(x) - before).detach().square().mean()))
    assert errors[1] < errors[0]


def test_a_learned_bridge_over_a_strided_block_keeps_the_positions(engine: Engine) -> None:
    run = attached(engine, RESNET)
    result = run.surgeon.remove_layer(layer_name="blocks.1", bridge_strategy="learned")
    assert result.success
    bridge = part_of(run, "blocks.1")
    assert (bridge.in_channels, bridge.out_channels, bridge.stride) == (4, 8, (2, 2))


def test_the_share_of_variance_that_a_bridge_explains_is_recorded(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    result = run.surgeon.remove_layer(layer_name="2", bridge_strategy="learned")
    fact = engine.history("model")[-1].fact
    assert isinstance(fact, LayerRemoved)
    assert fact.bridge_r2 == result.details["bridge_r2"]


def test_what_a_bridge_explains_of_rows_that_it_did_not_see_is_said_too(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    inputs = NESTED_MLP.batch(5000)
    block, first = run.model.get_submodule("2"), run.model.get_submodule("0")
    with torch.no_grad():
        fed = torch.relu(first(inputs))
        made = block(fed)
    result = run.surgeon.remove_layer(
        layer_name="2", bridge_strategy="learned", calibration=[NESTED_MLP.batch(500)]
    )
    with torch.no_grad():
        missed = (run.model.get_submodule("2")(fed) - made).square().sum()
    fresh = 1 - float(missed / (made - made.mean(0)).square().sum())
    assert result.details["bridge_r2_held_out"] == pytest.approx(fresh, abs=0.05)


def test_of_too_few_rows_none_are_held_out(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    result = run.surgeon.remove_layer(layer_name="2", bridge_strategy="learned")
    assert (result.details["bridge_r2_held_out"], result.details["function_preserved"]) == (None, None)


def test_a_removed_layer_leaves_its_skip_connections_working(engine: Engine) -> None:
    run = attached(engine, CONV_NET)
    run.surgeon.add_skip_connection(from_layer="conv1", to_layer="conv2")
    assert run.surgeon.remove_layer(layer_name="conv2").success
    x = CONV_NET.batch()
    run.model(x)
    one = part_of(run, "conv1")(x)
    assert len(run.architecture.skips()) == 1
    assert torch.equal(part_of(run, "conv2")(torch.relu(one)), torch.relu(one) + one)


def test_an_inserted_layer_can_be_removed_and_its_host_is_as_before(engine: Engine) -> None:
    run = attached(engine, CONV_NET)
    before = (type(part_of(run, "conv1")), run.architecture.fingerprint)
    run.surgeon.add_layer(after_layer="conv1", new_layer=nn.Tanh(), layer_name="new")
    assert run.surgeon.remove_layer(layer_name="new").success
    assert (type(part_of(run, "conv1")), run.architecture.fingerprint) == before


def test_the_only_layer_of_a_sequence_is_bypassed_not_dropped(engine: Engine) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Sequential(nn.ReLU()), nn.Linear(8, 3))
    run = attached(engine, NESTED_MLP, model=model)
    assert run.surgeon.remove_layer(layer_name="1.0").success
    assert list(dict(model[1].named_children())) == ["0"]
    assert model(NESTED_MLP.batch()).shape == (4, 3)


class TupleBlock(nn.Module):
    """Returns what transformer blocks do: the hidden state, and a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None = None, *, use_cache: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.inner(x), None


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([TupleBlock(), TupleBlock()])
        self.leave = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x, _ = block(x, None, use_cache=True)
        y: torch.Tensor = self.leave(x)
        return y


blueprint("tests/blocks")(Blocks)


def test_a_removed_block_with_extra_arguments_returns_a_tuple_of_the_same_length(engine: Engine) -> None:
    run = attached(engine, Zoolet("blocks", Blocks, (6,), "tests/blocks"))
    assert run.surgeon.remove_layer(layer_name="blocks.0").success
    x = torch.randn(2, 6)
    let_through, cache = part_of(run, "blocks.0")(x, None, use_cache=True)
    assert let_through is x
    assert cache is None
    assert run.model(x).shape == (2, 3)


REFUSED = {
    "a layer used elsewhere under another name": (TIED_NET, "shared", "shared_module"),
    "a layer whose weight is tied to another's": (TIED_NET, "encode", "tied_tensor"),
    "a layer that maps positions to none": (NESTED_CNN, "5", "incompatible_shapes"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_bridged_is_refused(what: str, engine: Engine) -> None:
    zoolet, layer, check = REFUSED[what]
    run = attached(engine, zoolet)
    result = run.surgeon.remove_layer(layer_name=layer, bridge_strategy="learned")
    assert (result.success, result.check) == (False, check)


def test_the_one_of_two_tied_layers_that_borrows_the_weight_can_be_removed_and_comes_back(
    engine: Engine,
) -> None:
    run = attached(engine, TIED_NET, adam)
    before = run.state_fingerprint
    result = run.surgeon.remove_layer(layer_name="decode", bridge_strategy="learned")
    assert result.success
    train_run(run, TIED_NET)
    run.rollback(2)
    assert run.state_fingerprint == before
    assert run.model.get_parameter("encode.weight") is run.model.get_parameter("decode.weight")


def test_a_module_that_another_connection_ends_in_is_not_removed(engine: Engine) -> None:
    run = attached(engine, RESNET)
    run.surgeon.add_skip_connection(from_layer="stem", to_layer="blocks.0.conv2")
    result = run.surgeon.remove_layer(layer_name="blocks.0")
    assert (result.success, result.check) == (False, "connection")


def test_removing_by_an_unchanged_function_is_measured_as_no_difference(engine: Engine) -> None:
    run = attached(engine, CUSTOM_MLP)
    run.surgeon.add_layer(after_layer="enter", new_layer=nn.Identity(), layer_name="idle")
    assert run.surgeon.remove_layer(layer_name="idle").details["output_difference"] == 0.0


@pytest.mark.parametrize("calibration", [5, torch.randn(2, 4), [(torch.randn(4, 99),)]])
def test_calibration_that_the_model_does_not_run_on_is_said_to_be_so(
    calibration: Any, engine: Engine
) -> None:
    run = attached(engine, NESTED_MLP)
    with pytest.raises(UsageError, match="calibration"):
        run.surgeon.remove_layer(layer_name="1", bridge_strategy="learned", calibration=calibration)


class Around(nn.Module):
    """Calls the forward of a block, not the block."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
        self.leave = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.leave(self.block.forward(x))
        return y


def test_a_block_of_which_only_the_forward_is_called_is_not_said_never_to_run(engine: Engine) -> None:
    blueprint("tests/around")(Around)
    run = engine.attach(Around(), "model", example_inputs=(torch.randn(3, 6),), blueprint="tests/around")
    result = run.surgeon.remove_layer(layer_name="block")
    assert result.check == "not_called"
    assert "name a layer inside it" in str(result.error)


def test_who_calls_a_forward_and_not_the_module_is_named(engine: Engine) -> None:
    blueprint("tests/around")(Around)
    run = engine.attach(Around(), "model", example_inputs=(torch.randn(3, 6),), blueprint="tests/around")
    error = str(run.surgeon.remove_layer(layer_name="block").error)
    assert "the code of the model (test_removal.py, line" in error


class AroundALayer(nn.Module):
    """Calls the forward of a layer without parts."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.leave = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.leave(self.inner.forward(x))
        return y


@pytest.mark.parametrize("operation", ["remove_layer", "add_layer"])
def test_a_layer_of_which_only_the_forward_is_called_is_not_said_to_lack_an_example(
    operation: str, engine: Engine
) -> None:
    blueprint("tests/around-a-layer")(AroundALayer)
    run = engine.attach(
        AroundALayer(), "model", example_inputs=(torch.randn(3, 6),), blueprint="tests/around-a-layer"
    )
    if operation == "remove_layer":
        result = run.surgeon.remove_layer(layer_name="inner")
    else:
        result = run.surgeon.add_layer(after_layer="inner", new_layer=nn.ReLU(), layer_name="new")
    assert result.check == "not_called"


def test_a_forward_that_the_user_put_on_a_module_is_the_same_afterwards(engine: Engine) -> None:
    run = engine.attach(
        nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)),
        "model",
        example_inputs=(torch.randn(3, 6),),
    )
    activation = run.model[1]
    own = activation.forward
    activation.forward = own
    assert run.surgeon.remove_layer(layer_name="0").success
    assert vars(activation)["forward"] is own


class Scaled(nn.Module):
    def forward(self, x: torch.Tensor, *, scale: float) -> torch.Tensor:
        return x * scale


class ReadsASignature(nn.Module):
    """Looks at what a layer takes before it calls it, as transformers' models do."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.block, self.leave = nn.Linear(6, 6), Scaled(), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = {"scale": 2.0} if "scale" in inspect.signature(self.block.forward).parameters else {}
        y: torch.Tensor = self.leave(self.block(self.enter(x), **scale))
        return y


def test_a_model_that_reads_the_signature_of_a_layer_runs_as_ever_while_it_is_watched(engine: Engine) -> None:
    blueprint("tests/reads-a-signature")(ReadsASignature)
    run = engine.attach(ReadsASignature(), "model", (torch.randn(3, 6),), blueprint="tests/reads-a-signature")
    result = run.surgeon.remove_layer(layer_name="enter")
    assert result.success, result.error
