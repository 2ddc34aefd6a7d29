"""Every limit of ``SurgeryConstraints``, through the engine: refused in the result and as a fact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from models import CONV_NET
from training import adam, attached

from esper_es import Engine, Run, SurgeryConstraints, SurgeryResult
from esper_es.domain.facts import SurgeryRefused

from .photograph import differences, photograph

WIDE_OPEN: dict[str, Any] = {
    "max_layers_to_add": 100,
    "max_layers_to_remove": 100,
    "max_width_multiplier": 100.0,
    "min_width_divisor": 100.0,
    "min_epochs_between_surgeries": 0,
    "max_surgeries_per_epoch": 100,
    "max_parameter_increase": 100.0,
    "max_memory_increase_mb": 1e6,
    "max_skip_connections": 100,
    "max_graph_depth": 1000,
}


def widen(run: Run, width: int = 9) -> SurgeryResult:
    return run.surgeon.modify_layer_width(layer_name="conv1", new_width=width)


def add(run: Run, name: str = "new") -> SurgeryResult:
    spec = {"type": "conv2d", "in_channels": 6, "out_channels": 6}
    return run.surgeon.add_layer(after_layer="conv2", new_layer=spec, layer_name=name)


def remove(run: Run, layer: str = "conv2") -> SurgeryResult:
    return run.surgeon.remove_layer(layer_name=layer)


def skip(run: Run, to_layer: str = "conv3") -> SurgeryResult:
    return run.surgeon.add_skip_connection(from_layer="conv1", to_layer=to_layer)


def widen_and_wait(run: Run) -> SurgeryResult:
    result = widen(run)
    run.epoch_end()
    return result


LIMITS: dict[str, tuple[float, Callable[[Run], SurgeryResult], Callable[[Run], SurgeryResult]]] = {
    "max_layers_to_add": (1, lambda run: add(run, "first"), lambda run: add(run, "second")),
    "max_layers_to_remove": (1, lambda run: remove(run, "conv2"), lambda run: remove(run, "conv3")),
    "max_width_multiplier": (1.5, lambda run: widen(run, 9), lambda run: widen(run, 14)),
    "min_width_divisor": (1.5, lambda run: widen(run, 4), lambda run: widen(run, 2)),
    "min_epochs_between_surgeries": (
        2,
        widen_and_wait,
        lambda run: widen(run, 10),
    ),
    "max_surgeries_per_epoch": (1, lambda run: widen(run), lambda run: widen(run, 10)),
    "max_parameter_increase": (1.2, lambda run: widen(run, 7), lambda run: widen(run, 12)),
    "max_memory_increase_mb": (0.02, lambda run: widen(run, 7), lambda run: widen(run, 60)),
    "max_skip_connections": (1, lambda run: skip(run, "conv3"), lambda run: skip(run, "conv2")),
    "max_graph_depth": (5, lambda run: add(run, "first"), lambda run: add(run, "second")),
}


def test_every_limit_on_a_surgery_itself_is_tried() -> None:
    assert set(LIMITS) == set(WIDE_OPEN)


@pytest.mark.parametrize("name", LIMITS)
def test_up_to_a_limit_surgeries_pass_and_beyond_it_they_are_refused(name: str, engine: Engine) -> None:
    limit, allowed, excessive = LIMITS[name]
    run = attached(engine, CONV_NET, adam, constraints=SurgeryConstraints(**{**WIDE_OPEN, name: limit}))
    assert allowed(run).success
    before = photograph(run)
    result = excessive(run)
    assert (result.success, result.check) == (False, name)
    assert name in (result.error or "")
    assert differences(before, photograph(run)) == []


@pytest.mark.parametrize("name", LIMITS)
def test_a_refusal_is_a_fact_that_names_the_limit(name: str, engine: Engine) -> None:
    limit, allowed, excessive = LIMITS[name]
    run = attached(engine, CONV_NET, adam, constraints=SurgeryConstraints(**{**WIDE_OPEN, name: limit}))
    allowed(run)
    result = excessive(run)
    fact = engine.history("model")[-1].fact
    assert isinstance(fact, SurgeryRefused)
    assert (fact.check, fact.operation, fact.reason) == (name, result.operation, result.error)


def test_a_seed_that_needs_too_many_parameters_does_not_germinate(engine: Engine) -> None:
    limits = SurgeryConstraints(**{**WIDE_OPEN, "max_parameter_increase": 1.2})
    run = attached(engine, CONV_NET, adam, constraints=limits)
    run.seeds.plant("seed", "conv2")
    result = run.seeds.germinate("seed", "mlp", expansion=16)
    assert (result.success, result.check) == (False, "max_parameter_increase")


def test_what_was_rolled_back_does_not_count_towards_a_limit(engine: Engine) -> None:
    limits = SurgeryConstraints(**{**WIDE_OPEN, "max_layers_to_add": 1})
    run = attached(engine, CONV_NET, adam, constraints=limits)
    undo = add(run, "first").undo_version
    assert undo is not None
    run.rollback(undo)
    assert add(run, "second").success


def test_surgeries_of_an_epoch_count_even_when_they_were_rolled_back(engine: Engine) -> None:
    limits = SurgeryConstraints(**{**WIDE_OPEN, "max_surgeries_per_epoch": 1})
    run = attached(engine, CONV_NET, adam, constraints=limits)
    undo = widen(run).undo_version
    assert undo is not None
    run.rollback(undo)
    assert widen(run).check == "max_surgeries_per_epoch"


def test_a_refused_surgery_does_not_count_as_one(engine: Engine) -> None:
    limits = SurgeryConstraints(**{**WIDE_OPEN, "max_surgeries_per_epoch": 1})
    run = attached(engine, CONV_NET, adam, constraints=limits)
    remove(run, "nowhere")
    assert widen(run).success


def test_shrinking_is_allowed_above_a_limit_that_only_growth_can_cross(engine: Engine) -> None:
    limits = SurgeryConstraints(**{**WIDE_OPEN, "max_parameter_increase": 1.0})
    run = attached(engine, CONV_NET, adam, constraints=limits)
    assert widen(run, 4).success


def test_without_constraints_nothing_limits(engine: Engine) -> None:
    run = attached(engine, CONV_NET, adam)
    assert all(add(run, f"new{number}").success for number in range(7))


def test_constraints_are_those_that_the_log_recorded_at_birth(url: str) -> None:
    with Engine(url) as engine:
        attached(engine, CONV_NET, adam, constraints=SurgeryConstraints(max_layers_to_add=0))
    with Engine(url) as engine:
        assert add(attached(engine, CONV_NET, adam)).check == "max_layers_to_add"
