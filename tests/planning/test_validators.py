"""The four validators, asked directly: which layer, which shapes; and the model is left as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from models import CUSTOM_MLP, NESTED_CNN, NESTED_MLP
from torch import nn
from training import attached

from esper_es import (
    DimensionValidator,
    Engine,
    GradientFlowValidator,
    MemoryValidator,
    SurgeryValidator,
    SurgeryValidatorChain,
    TopologyValidator,
    fingerprint,
)
from esper_es.example_inputs import normalized
from esper_es.validators import Trial
from esper_es.validators.baseline import baseline_of

CHAIN: tuple[Callable[[], SurgeryValidator], ...] = (
    DimensionValidator,
    GradientFlowValidator,
    MemoryValidator,
    TopologyValidator,
)


@pytest.mark.parametrize("validator", CHAIN, ids=lambda cls: cls.__name__)
def test_a_sound_model_on_its_own_is_valid(validator: Callable[[], SurgeryValidator]) -> None:
    result = validator().validate(NESTED_CNN.build(), "add_layer", example_inputs=(NESTED_CNN.batch(),))
    assert (result.is_valid, result.errors) == (True, [])


@pytest.mark.parametrize("validator", CHAIN, ids=lambda cls: cls.__name__)
def test_a_validator_leaves_the_model_and_the_generators_as_they_were(
    validator: Callable[[], SurgeryValidator],
) -> None:
    model = NESTED_CNN.build()
    model.eval()
    model.get_submodule("1").train()
    x = NESTED_CNN.batch()
    before = (fingerprint(model), [m.training for m in model.modules()], torch.get_rng_state().tolist())
    validator().validate(model, "add_layer", example_inputs=(x,))
    after = (fingerprint(model), [m.training for m in model.modules()], torch.get_rng_state().tolist())
    assert after == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_dimensions_that_do_not_fit_name_the_layer_and_the_shapes() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Sequential(nn.Linear(9, 3)))
    result = DimensionValidator().validate(model, "add_layer", example_inputs=(torch.ones(4, 6),))
    assert not result.is_valid
    assert result.details["layer"] == "1.0"
    assert "layer '1.0' (Linear), given [(4, 8)]" in result.errors[0]


def test_another_output_than_before_names_both_shapes() -> None:
    examples = normalized((torch.ones(4, 6),), NESTED_MLP.build())
    before = baseline_of(NESTED_MLP.build(), examples, None)
    changed = nn.Sequential(nn.Linear(6, 5))
    result = DimensionValidator().validate(changed, "remove_layer", trial=Trial(examples, before))
    assert result.errors == ["the model's outputs are incompatible: ((4, 5),), before ((4, 3),)"]


class Blocked(nn.Module):
    """Cuts the gradient between its two layers."""

    def __init__(self, blocked: bool = True) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 6)
        self.leave = nn.Linear(6, 3)
        self.blocked = blocked

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x)
        y: torch.Tensor = self.leave(x.detach() if self.blocked else x)
        return y


def trial_before(model: nn.Module, executes: tuple[str, ...] = ()) -> Trial:
    examples = normalized((torch.ones(4, 6),), model)
    return Trial(examples, baseline_of(model, examples, None), executes)


def test_a_parameter_that_no_longer_learns_is_named() -> None:
    result = GradientFlowValidator().validate(
        Blocked(), "add_layer", trial=trial_before(Blocked(blocked=False))
    )
    assert result.errors == [
        "no gradient reaches parameter 'enter.weight'",
        "no gradient reaches parameter 'enter.bias'",
    ]


def test_a_parameter_that_never_learned_is_only_a_warning() -> None:
    result = GradientFlowValidator().validate(Blocked(), "add_layer", trial=trial_before(Blocked()))
    assert result.is_valid
    assert result.warnings == [
        "parameter 'enter.weight' received no gradient before either",
        "parameter 'enter.bias' received no gradient before either",
    ]


def test_a_gradient_that_is_not_finite_names_the_parameter() -> None:
    model = NESTED_MLP.build()
    with torch.no_grad():
        model.get_parameter("3.weight").fill_(float("inf"))
    result = GradientFlowValidator().validate(model, "add_layer", example_inputs=(torch.ones(4, 6),))
    assert not result.is_valid
    assert "the gradient of parameter '0.weight' is not finite" in result.errors


def test_memory_growth_is_estimated_from_parameters_gradients_optimizer_and_activations() -> None:
    before = nn.Sequential(nn.Linear(6, 8, bias=False), nn.Linear(8, 3, bias=False))
    after = nn.Sequential(nn.Linear(6, 18, bias=False), nn.Linear(18, 3, bias=False))
    result = MemoryValidator().validate(after, "modify_layer_width", trial=trial_before(before))
    assert result.details["parameter_growth"] == 10 * 9
    assert result.details["memory_growth_bytes"] == 4 * (10 * 9 * 2 + 10 * 4)


def test_a_change_that_the_machine_has_no_room_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import esper_es.validators.memory as memory

    monkeypatch.setattr(memory, "available_bytes", lambda model: 100)
    before, after = (nn.Sequential(nn.Linear(6, width), nn.Linear(width, 3)) for width in (8, 800))
    result = MemoryValidator().validate(after, "modify_layer_width", trial=trial_before(before))
    assert not result.is_valid
    assert "MB are free" in result.errors[0]


def test_a_new_module_that_is_never_run_is_named() -> None:
    model = Blocked()
    model.add_module("idle", nn.ReLU())
    result = TopologyValidator().validate(model, "add_layer", trial=trial_before(Blocked(), ("idle",)))
    assert result.errors == ["new module 'idle' is never executed; the model's forward goes around it"]


def test_a_module_that_ran_before_and_no_longer_does_is_named() -> None:
    before = NESTED_MLP.build()
    after = NESTED_MLP.build()
    after.forward = lambda x: after[3](after[2](torch.cat([x, x[:, :2]], 1)))  # type: ignore[index]
    result = TopologyValidator().validate(after, "remove_layer", trial=trial_before(before))
    assert result.errors == ["module '0' is no longer executed", "module '1' is no longer executed"]


def test_a_connection_through_a_module_that_is_gone_is_named(engine: Engine) -> None:
    run = attached(engine, CUSTOM_MLP)
    run.surgeon.add_skip_connection(from_layer="enter", to_layer="leave")
    del run.model._modules["skip_enter_to_leave"]
    result = TopologyValidator().validate(
        run.model, "add_skip_connection", example_inputs=(CUSTOM_MLP.batch(),)
    )
    assert result.errors == ["connection 'skip:enter->leave' names 'skip_enter_to_leave', which is not there"]


def test_the_chain_runs_in_order_and_stops_at_the_first_failure() -> None:
    broken = nn.Sequential(nn.Linear(6, 8), nn.Linear(9, 3))
    sound = NESTED_MLP.build()
    chain = SurgeryValidatorChain()
    x = torch.ones(4, 6)
    assert [r.check_name for r in chain.validate_all(sound, "add_layer", example_inputs=(x,))] == [
        "dimension",
        "gradient_flow",
        "memory",
        "topology",
    ]
    assert [r.check_name for r in chain.validate_all(broken, "add_layer", example_inputs=(x,))] == [
        "dimension"
    ]
