"""What can never be right is misuse, said in words; nothing is recorded and nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from models import NESTED_MLP
from torch import nn
from training import adam, attached

from esper_es import Engine, UsageError, blueprint, fingerprint
from esper_es.domain.facts import EpochEnded

from .photograph import differences, photograph

Act = Callable[[Any], Any]
SPEC = {"type": "linear", "in_features": 8, "out_features": 8}

MISUSES: dict[str, tuple[Act, str]] = {
    "no path": (lambda run: run.surgeon.remove_layer(layer_name=None), "are strings; got None"),
    "a list for a path": (lambda run: run.surgeon.remove_layer(layer_name=["0"]), "are strings"),
    "no source of a skip": (
        lambda run: run.surgeon.add_skip_connection(from_layer=None, to_layer="3"),
        "is a string; got None",
    ),
    "no layer": (lambda run: run.surgeon.add_layer(after_layer="0", layer_name="new"), "needs new_layer"),
    "a name for a layer": (
        lambda run: run.surgeon.add_layer(after_layer="0", new_layer="relu", layer_name="new"),
        "a layer spec is a mapping",
    ),
    "an unknown type of layer": (
        lambda run: run.surgeon.add_layer(after_layer="0", new_layer={"type": "warp"}, layer_name="new"),
        "unknown layer kind 'warp'",
    ),
    "an unknown argument of a layer": (
        lambda run: run.surgeon.add_layer(after_layer="0", new_layer={**SPEC, "depth": 3}, layer_name="new"),
        r"not \['depth'\]",
    ),
    "a layer of a size that is no number": (
        lambda run: run.surgeon.add_layer(
            after_layer="0", new_layer={**SPEC, "in_features": float("nan")}, layer_name="new"
        ),
        "layer spec .* is wrong",
    ),
    "no name": (
        lambda run: run.surgeon.add_layer(after_layer="0", new_layer=SPEC),
        "non-empty string without dots",
    ),
    "a name with dots": (
        lambda run: run.surgeon.add_layer(after_layer="0", new_layer=SPEC, layer_name="a.b"),
        "non-empty string without dots",
    ),
    "a class of the user's own as a layer": (
        lambda run: run.surgeon.add_layer(after_layer="0", new_layer=_Own(), layer_name="new"),
        "classes _Own are described by no registered layer kind",
    ),
    "an unknown connection type": (
        lambda run: run.surgeon.add_layer(
            after_layer="0", new_layer=SPEC, layer_name="new", connection_type="wormhole"
        ),
        "connection_type is one of sequential, residual",
    ),
    "an unknown bridge": (
        lambda run: run.surgeon.remove_layer(layer_name="0", bridge_strategy="golden gate"),
        "bridge_strategy is one of direct, learned",
    ),
    "an unknown join": (
        lambda run: run.surgeon.add_skip_connection(from_layer="0", to_layer="3", connection_type="xor"),
        "connection_type is one of add",
    ),
    "a width of nothing": (
        lambda run: run.surgeon.modify_layer_width(layer_name="0", new_width=0),
        "positive integer, got 0",
    ),
    "a width of a half": (
        lambda run: run.surgeon.modify_layer_width(layer_name="0", new_width=8.5),
        "positive integer, got 8.5",
    ),
    "an unknown initialization": (
        lambda run: run.surgeon.modify_layer_width(layer_name="0", new_width=9, initialization="wild"),
        "initialization is one of",
    ),
    "calibration on nothing that the model takes": (
        lambda run: run.surgeon.remove_layer(layer_name="0", calibration=[3]),
        "example_inputs is a tensor",
    ),
    "a seed without a name": (lambda run: run.seeds.plant(1, "0"), "are strings; got 1"),
    "a seed that could name no module": (lambda run: run.seeds.plant("1 seed", "0"), "Python identifier"),
    "a seed after no path": (lambda run: run.seeds.plant("seed", ["0"]), "is a string"),
    "an unknown kernel": (lambda run: run.seeds.germinate("known", "corn"), "unknown kernel 'corn'"),
    "an unknown argument of a kernel": (
        lambda run: run.seeds.germinate("known", "mlp", depth=2),
        "kernel 'mlp' takes expansion, not 'depth'",
    ),
    "an argument of a kernel below one": (
        lambda run: run.seeds.germinate("known", "mlp", expansion=0),
        "positive integer",
    ),
    "evidence that is no mapping": (lambda run: run.seeds.advance("known", evidence=3), "numbers by name"),
    "evidence that is no number": (
        lambda run: run.seeds.germinate("known", "mlp", evidence={"gain": float("nan")}),
        "finite numbers only",
    ),
    "muting a seed without a module": (lambda run: run.seeds.muted("known").__enter__(), "holds no module"),
    "a metric that is not a number": (
        lambda run: run.epoch_end({"loss": float("nan")}),
        r"metrics\['loss'\] is nan; facts hold finite numbers only",
    ),
    "an infinite metric": (lambda run: run.epoch_end({"loss": float("inf")}), "finite numbers only"),
    "a metric in words": (lambda run: run.epoch_end({"loss": "low"}), "must be a number, got str"),
    "a metric of several numbers": (
        lambda run: run.epoch_end({"loss": torch.tensor([0.5])}),
        r"metrics\['loss'\] must be a number, got Tensor",
    ),
    "a metric without a value": (
        lambda run: run.epoch_end({"loss": torch.zeros((), device="meta")}),
        r"metrics\['loss'\] must be a number, got Tensor",
    ),
    "a complex metric": (
        lambda run: run.epoch_end({"loss": torch.tensor(1j)}),
        r"metrics\['loss'\] must be a number, got complex",
    ),
    "a metric of a tensor that is not finite": (
        lambda run: run.epoch_end({"acc": 0.5, "loss": torch.tensor(float("nan"))}),
        r"metrics\['loss'\] is nan; facts hold finite numbers only",
    ),
    "a metric of NumPy that is not finite": (
        lambda run: run.epoch_end({"loss": np.float32("inf")}),
        r"metrics\['loss'\] is inf",
    ),
    "a yes for a metric": (lambda run: run.epoch_end({"loss": np.True_}), "must be a number, got bool"),
    "a metric without a name": (lambda run: run.epoch_end({1: 0.5}), "names must be strings"),
    "metrics that are no mapping": (lambda run: run.epoch_end(0.5), "metrics by name"),
}


class _Own(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.parametrize("misuse", MISUSES)
def test_misuse_raises_in_words_and_changes_nothing(misuse: str, engine: Engine) -> None:
    act, words = MISUSES[misuse]
    run = attached(engine, NESTED_MLP, adam)
    run.seeds.plant("known", "0")
    before, version = photograph(run), run.version
    with pytest.raises(UsageError, match=words):
        act(run)
    assert (differences(before, photograph(run)), run.version) == ([], version)


REFUSALS: dict[str, tuple[Act, str]] = {
    "an unknown layer": (
        lambda run: run.surgeon.modify_layer_width(layer_name="4", new_width=9),
        "unknown_layer",
    ),
    "no layer at all": (lambda run: run.surgeon.remove_layer(layer_name=""), "unknown_layer"),
    "a layer without a width": (
        lambda run: run.surgeon.modify_layer_width(layer_name="1", new_width=9),
        "no_width",
    ),
    "the model's output": (lambda run: run.surgeon.modify_layer_width(layer_name="3", new_width=9), "pinned"),
    "the width that it has": (
        lambda run: run.surgeon.modify_layer_width(layer_name="0", new_width=8),
        "same_width",
    ),
    "a name that is taken": (
        lambda run: run.surgeon.add_layer(after_layer="0", new_layer=SPEC, layer_name="1"),
        "name_taken",
    ),
    "a name of nn.Module's own": (
        lambda run: run.surgeon.add_layer(after_layer="0", new_layer=SPEC, layer_name="forward"),
        "name_taken",
    ),
    "a residual layer in place": (
        lambda run: run.surgeon.add_layer(
            after_layer="0", new_layer=nn.ReLU(inplace=True), layer_name="new", connection_type="residual"
        ),
        "inplace",
    ),
    "a residual layer of another shape": (
        lambda run: run.surgeon.add_layer(
            after_layer="0",
            new_layer={**SPEC, "out_features": 4},
            layer_name="new",
            connection_type="residual",
        ),
        "incompatible_shapes",
    ),
    "a skip backwards": (lambda run: run.surgeon.add_skip_connection(from_layer="3", to_layer="0"), "cycle"),
    "a skip to itself": (lambda run: run.surgeon.add_skip_connection(from_layer="0", to_layer="0"), "cycle"),
    "a layer spec that JSON cannot hold": (
        lambda run: run.surgeon.add_layer(
            after_layer="nowhere", new_layer={"type": object(), 1: float("nan")}, layer_name="new"
        ),
        "unknown_layer",
    ),
    "evidence for an unknown seed": (
        lambda run: run.seeds.advance("unknown", evidence={"gain": float("nan")}),
        "unknown_seed",
    ),
}


@pytest.mark.parametrize("refused", REFUSALS)
def test_what_the_model_forbids_is_refused_and_recorded(refused: str, engine: Engine) -> None:
    act, check = REFUSALS[refused]
    run = attached(engine, NESTED_MLP, adam)
    before, version = photograph(run), run.version
    result = act(run)
    assert (result.success, result.check) == (False, check)
    assert differences(before, photograph(run)) == []
    assert [type(e.fact).__name__ for e in engine.history("model")[version:]] == ["SurgeryRefused"]


ATTACHMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "no module": ({"model": "net"}, "takes an nn.Module, got str"),
    "no name": ({"name": ""}, "1 to 255 printable characters"),
    "a name beyond Unicode": ({"name": "\ud800"}, "1 to 255 printable characters"),
    "a name of several lines": ({"name": "a\nb"}, "1 to 255 printable characters"),
    "a name that is no string": ({"name": 7}, "1 to 255 printable characters"),
    "no optimizer": ({"optimizer": "adam"}, "must be a torch.optim.Optimizer, got str"),
    "no scheduler": ({"scheduler": 3}, "scheduler must have state_dict"),
    "no scaler": ({"scaler": 3}, "scaler must have state_dict"),
    "inputs that are no inputs": ({"example_inputs": 3}, "example_inputs is a tensor, a tuple"),
    "inputs that do not fit": ({"example_inputs": (torch.ones(4, 5),)}, "does not run on its example inputs"),
    "a blueprint that is not registered": ({"blueprint": "tests/none"}, "has not registered"),
    "arguments without a blueprint": ({"blueprint_args": {"width": 8}}, "without a blueprint"),
    "arguments that are no JSON": (
        {"blueprint": "tests/custom-mlp", "blueprint_args": {"width": {8}}},
        "must be JSON",
    ),
    "a blueprint of another model": ({"blueprint": "tests/conv-net"}, "builds another architecture"),
    "a class of one's own without a blueprint": (
        {"model": nn.Sequential(nn.Linear(6, 3), _Own())},
        "Register a function that builds it",
    ),
    "constraints that are none": ({"constraints": 3}, "constraints must be a SurgeryConstraints, got int"),
    "a policy that is none": ({"watch": "accuracy"}, "watch must be a WatchPolicy, got str"),
    "arguments that are no mapping": (
        {"blueprint": "tests/custom-mlp", "blueprint_args": 3},
        "blueprint_args must be a Mapping, got int",
    ),
    "a number of fresh parts": ({"fresh": 3}, "fresh names parts that begin anew"),
    "parameters without a shape": ({"model": nn.LazyLinear(3)}, "has no shape yet"),
    "an optimizer of another model": (
        {"optimizer": torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)},
        "not in the model",
    ),
}


@pytest.mark.parametrize("attachment", ATTACHMENTS)
def test_a_model_that_the_log_could_not_follow_is_not_attached(attachment: str, engine: Engine) -> None:
    asked, words = ATTACHMENTS[attachment]
    arguments: dict[str, Any] = {
        "model": NESTED_MLP.build(),
        "name": "model",
        "example_inputs": (NESTED_MLP.batch(),),
    }
    with pytest.raises(UsageError, match=words):
        engine.attach(**{**arguments, **asked})
    assert engine.names() == ()


CALLS: dict[str, tuple[Callable[[Engine, Any], Any], str]] = {
    "surgeries onto nothing": (lambda engine, run: engine.replay_surgeries("model", None), "onto a run"),
    "surgeries onto a model": (lambda engine, run: engine.replay_surgeries("model", run.model), "onto a run"),
    "surgeries since before all": (
        lambda engine, run: engine.replay_surgeries("model", run, since=-1),
        "the number of a version",
    ),
    "a fingerprint of nothing": (lambda engine, run: fingerprint(None), "takes an nn.Module"),
    "a blueprint without a name": (lambda engine, run: blueprint(3), "goes by a name"),
    "a kernel that is a list": (lambda engine, run: run.seeds.germinate("seed", ["mlp"]), "unknown kernel"),
    "a cause in words": (
        lambda engine, run: run.surgeon.remove_layer(layer_name="1", cause="I say so"),
        "cause is an esper_es.Cause",
    ),
    "calibration that is not finite": (
        lambda engine, run: run.surgeon.remove_layer(
            layer_name="0", bridge_strategy="learned", calibration=[torch.full((4, 6), float("nan"))]
        ),
        "calibration is not finite",
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_can_never_be_right_is_one_clear_error(call: str, engine: Engine) -> None:
    act, words = CALLS[call]
    run = attached(engine, NESTED_MLP, adam)
    run.seeds.plant("seed", "1")
    before, version = photograph(run), run.version
    with pytest.raises(UsageError, match=words):
        act(engine, run)
    assert (differences(before, photograph(run)), run.version) == ([], version)


def test_a_metric_beyond_all_floats_is_misuse(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    with pytest.raises(UsageError):
        run.epoch_end({"loss": 10**400})


@pytest.mark.parametrize(
    "number",
    [
        0.5,
        np.float64(0.5),
        np.float32(0.5),
        np.float16(0.5),
        np.array(0.5),
        torch.tensor(0.5),
        torch.tensor(0.5).half(),
    ],
    ids=lambda number: f"{type(number).__name__}-{getattr(number, 'dtype', '')}",
)
def test_a_metric_may_be_a_scalar_of_numpy_or_torch(number: Any, engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    run.epoch_end({"loss": number})
    fact = engine.history("model")[-1].fact
    assert isinstance(fact, EpochEnded)
    assert (fact.metrics, type(fact.metrics["loss"])) == ({"loss": 0.5}, float)


def test_a_metric_may_be_an_integer_scalar(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    run.epoch_end({"hits": torch.tensor(7), "misses": np.int64(3)})
    assert dict(run.state.lineage.metrics) == {"hits": 7.0, "misses": 3.0}


def test_evidence_and_alpha_may_be_scalars_too(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    run.seeds.plant("seed", "0")
    assert run.seeds.germinate("seed", "mlp", evidence={"gain": np.float32(0.5)}).success
    assert run.seeds.set_alpha("seed", torch.tensor(0.5)).check == "lifecycle"
