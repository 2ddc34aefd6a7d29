"""What the plan's own tests ask of the surgeon and of decisions, as behaviour."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from models import CONV_NET, ConvNet
from torch import nn
from training import attached, part_of

from esper_es import AdaptationDecision, Engine, ModelSurgeon, UsageError


def three_layers() -> Any:
    return nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 10))


def test_a_layer_inserted_into_a_sequential_of_three_makes_four_children() -> None:
    model = three_layers()
    result = ModelSurgeon().add_layer(
        model=model, after_layer="0", new_layer=nn.Linear(20, 20), layer_name="inserted_layer"
    )
    assert result.success
    assert [name for name, _ in model.named_children()] == ["0", "inserted_layer", "1", "2"]
    assert model(torch.randn(5, 10)).shape == (5, 10)


def test_a_learned_bridge_over_a_removed_layer_adds_an_adapter() -> None:
    model = nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 30), nn.Linear(30, 10))
    result = ModelSurgeon().remove_layer(model=model, layer_name="1", bridge_strategy="learned")
    assert result.success
    assert result.details["adapter_added"]
    assert model(torch.randn(5, 10)).shape == (5, 10)


def test_a_wider_layer_takes_its_reader_along() -> None:
    model = three_layers()
    assert ModelSurgeon().modify_layer_width(model=model, layer_name="0", new_width=40).success
    assert (model[0].out_features, model[2].in_features) == (40, 40)


def test_a_skip_connection_on_a_model_with_named_layers_keeps_it_running() -> None:
    model = ConvNet()
    result = ModelSurgeon().add_skip_connection(model=model, from_layer="conv1", to_layer="conv3")
    assert result.success
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 10)


def test_an_incompatible_layer_is_refused_as_incompatible() -> None:
    model = nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 5))
    result = ModelSurgeon().add_layer(
        model=model, after_layer="0", new_layer=nn.Linear(30, 40), layer_name="bad_layer"
    )
    assert not result.success
    assert "incompatible" in (result.error or "").lower()


def test_removing_a_layer_that_is_not_there_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 10))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = ModelSurgeon().remove_layer(model=model, layer_name="nonexistent")
    assert not result.success
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_surgeon_keeps_the_results_of_its_operations_in_order() -> None:
    surgeon, model = ModelSurgeon(), three_layers()
    surgeon.modify_layer_width(model=model, layer_name="0", new_width=24)
    surgeon.remove_layer(model=model, layer_name="nonexistent")
    assert [(r.operation, r.success) for r in surgeon.operation_history] == [
        ("modify_layer_width", True),
        ("remove_layer", False),
    ]


def test_a_surgeon_on_its_own_needs_a_model() -> None:
    with pytest.raises(UsageError, match="needs model="):
        ModelSurgeon().remove_layer(layer_name="0")


def test_the_surgeon_of_a_run_refuses_another_model(engine: Engine) -> None:
    run = attached(engine, CONV_NET)
    with pytest.raises(UsageError, match="belongs to a run"):
        run.surgeon.remove_layer(model=three_layers(), layer_name="0")


def add_layer_decision(**changes: Any) -> AdaptationDecision:
    known: dict[str, Any] = {
        "decision_id": "test_001",
        "layer_name": "conv1",
        "adaptation_type": "add_layer",
        "confidence": 0.85,
        "parameters": {
            "layer_spec": {
                "type": "conv2d",
                "in_channels": 6,
                "out_channels": 6,
                "kernel_size": 3,
                "padding": 1,
            },
            "connection_type": "sequential",
        },
        "reasoning": "Layer showing high activation variance",
    }
    return AdaptationDecision(**{**known, **changes})


async def test_a_decision_to_add_a_layer_adds_an_expansion_beside_its_layer(engine: Engine) -> None:
    run = attached(engine, CONV_NET)
    result = await run.apply_architecture_modification(add_layer_decision())
    assert result.success
    assert hasattr(run.model, "conv1_expansion")
    assert run.model(torch.randn(1, 3, 32, 32)).shape == (1, 10)


def test_a_decision_to_add_neurons_doubles_the_width_by_default(engine: Engine) -> None:
    run = attached(engine, CONV_NET)
    decision = add_layer_decision(adaptation_type="add_neurons", parameters={})
    assert run.apply(decision).success
    assert part_of(run, "conv1").out_channels == 12


def test_everything_a_decision_leads_to_carries_its_id(engine: Engine) -> None:
    run = attached(engine, CONV_NET)
    before = run.version
    run.apply(add_layer_decision())
    led_to = [e for e in engine.history("model") if e.version > before]
    assert [type(e.fact).__name__ for e in led_to] == [
        "DecisionReceived",
        "StateCaptured",
        "LayerAdded",
        "DecisionSettled",
    ]
    assert {e.cause.decision_id for e in led_to} == {"test_001"}


def test_a_decision_that_is_refused_is_settled_as_refused(engine: Engine) -> None:
    run = attached(engine, CONV_NET)
    assert not run.apply(add_layer_decision(layer_name="conv9")).success
    settled = engine.history("model")[-1].fact
    assert (type(settled).__name__, settled.outcome) == ("DecisionSettled", "refused")  # type: ignore[union-attr]


def test_something_else_than_a_decision_is_misuse(engine: Engine) -> None:
    run = attached(engine, CONV_NET)
    with pytest.raises(UsageError, match="AdaptationDecision"):
        run.apply("add_layer")  # type: ignore[arg-type]


def test_a_surgeon_alone_keeps_no_model_alive() -> None:
    surgeon, model = ModelSurgeon(), three_layers()
    assert surgeon.modify_layer_width(model=model, layer_name="0", new_width=40).success
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert len(surgeon._sessions) == 0


def test_a_surgeon_alone_goes_on_with_a_model_as_long_as_it_is_held() -> None:
    surgeon, model = ModelSurgeon(), three_layers()
    surgeon.modify_layer_width(model=model, layer_name="0", new_width=40)
    gc.collect()
    assert surgeon.modify_layer_width(model=model, layer_name="0", new_width=41).version > 4
