"""Decisions: each type takes its own parameters, and nothing that can never be right is accepted."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_es.domain.decisions import (
    ADAPTATION_TYPES,
    PARAMETERS,
    REQUIRED,
    SEED_TYPES,
    SURGERY_TYPES,
    AdaptationDecision,
)

from .strategies import decisions_of

EXAMPLES: dict[type, Any] = {int: 3, float: 0.5, str: "kaiming", dict: {"kind": "relu"}, list: ["norm"]}
TYPE_AND_PARAMETER = [(kind, name) for kind, known in PARAMETERS.items() for name in known]


def decision(adaptation_type: str = "add_neurons", **given: Any) -> AdaptationDecision:
    needed = {
        name: EXAMPLES[PARAMETERS[adaptation_type][name][0]] for name in REQUIRED.get(adaptation_type, ())
    }
    attributes: dict[str, Any] = {
        "decision_id": "d-1",
        "layer_name": "conv1",
        "adaptation_type": adaptation_type,
        "confidence": 0.5,
        **given,
    }
    attributes["parameters"] = {**needed, **given.get("parameters", {})}
    return AdaptationDecision(**attributes)


def test_the_types_are_the_plans_and_the_predecessors() -> None:
    assert set(SURGERY_TYPES) == {"add_neurons", "add_layer", "remove_layer", "add_skip_connection"}
    assert set(SEED_TYPES) == {"add_seed", "remove_seed", "modify_architecture", "optimize_parameters"}


@pytest.mark.parametrize("adaptation_type", ADAPTATION_TYPES)
def test_every_type_says_which_parameters_it_takes(adaptation_type: str) -> None:
    assert set(REQUIRED.get(adaptation_type, ())) <= set(PARAMETERS[adaptation_type])


@pytest.mark.parametrize("adaptation_type", ADAPTATION_TYPES)
@settings(max_examples=20)
@given(data=st.data())
def test_a_decision_takes_any_of_the_parameters_of_its_type(
    adaptation_type: str, data: st.DataObject
) -> None:
    drawn = data.draw(decisions_of(adaptation_type))
    assert set(drawn.parameters) <= set(PARAMETERS[adaptation_type])


@pytest.mark.parametrize(("adaptation_type", "name"), TYPE_AND_PARAMETER)
def test_a_parameter_of_another_type_is_an_error(adaptation_type: str, name: str) -> None:
    kinds = PARAMETERS[adaptation_type][name]
    wrong = next(value for kind, value in EXAMPLES.items() if kind not in kinds)
    with pytest.raises(ValueError, match=f"parameter '{name}' of {adaptation_type} must be"):
        decision(adaptation_type, parameters={name: wrong})


@pytest.mark.parametrize(("adaptation_type", "name"), TYPE_AND_PARAMETER)
def test_a_truth_value_is_no_parameter(adaptation_type: str, name: str) -> None:
    with pytest.raises(ValueError, match=f"parameter '{name}'"):
        decision(adaptation_type, parameters={name: True})


@pytest.mark.parametrize("adaptation_type", ADAPTATION_TYPES)
def test_an_unknown_parameter_is_an_error_naming_the_known(adaptation_type: str) -> None:
    known = sorted(PARAMETERS[adaptation_type])
    with pytest.raises(ValueError, match=f"takes no parameter 'colour'.*{known[0]}"):
        decision(adaptation_type, parameters={"colour": "red"})


@pytest.mark.parametrize(
    ("adaptation_type", "name"), [(kind, name) for kind, names in REQUIRED.items() for name in names]
)
def test_a_missing_parameter_is_an_error(adaptation_type: str, name: str) -> None:
    with pytest.raises(ValueError, match=f"{adaptation_type} needs the parameter '{name}'"):
        AdaptationDecision(
            decision_id="d", layer_name="conv1", adaptation_type=adaptation_type, confidence=0.5
        )


@pytest.mark.parametrize("name", ["confidence", "urgency"])
@pytest.mark.parametrize("value", [0, 0.0, 1, 1.0])
def test_confidence_and_urgency_reach_their_bounds(name: str, value: Any) -> None:
    assert getattr(decision(**{name: value}), name) == value


@pytest.mark.parametrize("name", ["confidence", "urgency"])
@pytest.mark.parametrize("value", [-0.001, 1.001, math.nan, math.inf, "0.5", None, True])
def test_confidence_and_urgency_are_shares(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"AdaptationDecision.{name} must be"):
        decision(**{name: value})


@pytest.mark.parametrize("length", [1, 255])
def test_a_layer_name_can_have_1_to_255_characters(length: int) -> None:
    assert len(decision(layer_name="x" * length).layer_name) == length


@pytest.mark.parametrize("length", [0, 256])
def test_no_other_length_of_a_layer_name_is_accepted(length: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 255 characters, got {length}"):
        decision(layer_name="x" * length)


def test_an_id_is_needed_for_the_facts_to_name_it() -> None:
    with pytest.raises(ValueError, match="decision_id must not be empty"):
        decision(decision_id="")


def test_an_unknown_type_is_an_error_naming_the_known() -> None:
    with pytest.raises(ValueError, match="unknown adaptation_type 'explode'; known are add_neurons"):
        AdaptationDecision(decision_id="d", layer_name="x", adaptation_type="explode", confidence=0.5)


@pytest.mark.parametrize("value", [math.nan, math.inf, "noon", True])
def test_a_timestamp_is_a_finite_number(value: Any) -> None:
    with pytest.raises(ValueError, match=r"AdaptationDecision\.timestamp must be a finite number"):
        decision(timestamp=value)


@pytest.mark.parametrize("metadata", [{"x": math.nan}, {"x": object()}, {"x": {1, 2}}])
def test_metadata_is_json(metadata: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="parameters and metadata must be JSON"):
        decision(metadata=metadata)
