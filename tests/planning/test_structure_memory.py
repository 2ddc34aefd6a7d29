"""What one surgery finds out serves the next one, and never makes it wrong."""

from __future__ import annotations

import torch
from torch import nn

import esper_es
from esper_es import Engine, Run
from esper_es.planning.structure_memory import KEPT, StructureMemory


class TwoHeaded(nn.Module):
    """Two layers, a head, and a second head that can be switched on; it counts how often any copy of it ran."""

    runs = 0

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.head = nn.Linear(8, 3)
        self.other = nn.Linear(8, 3)
        self.both = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        type(self).runs += 1
        hidden = torch.relu(self.first(x))
        result: torch.Tensor = self.head(hidden)
        return result + self.other(hidden) if self.both else result


@esper_es.blueprint("tests/two-headed")
def two_headed() -> nn.Module:
    return TwoHeaded()


def _run(engine: Engine, model: nn.Module) -> Run:
    return engine.attach(model, "model", (torch.randn(2, 4),), blueprint="tests/two-headed")


def _runs_of_widening(run: Run, width: int) -> int:
    before = TwoHeaded.runs
    result = run.surgeon.modify_layer_width(layer_name="first", new_width=width)
    assert result.success, result.error
    return TwoHeaded.runs - before


def test_a_second_surgery_builds_on_the_proof_of_the_first(engine: Engine) -> None:
    model = TwoHeaded()
    model.both = True
    run = _run(engine, model)
    first = _runs_of_widening(run, 12)
    assert _runs_of_widening(run, 16) == first - 2  # neither traced nor differentiated as it was


def test_a_model_that_does_something_else_since_is_traced_again(engine: Engine) -> None:
    model = TwoHeaded()
    model.both = True
    run = _run(engine, model)
    _runs_of_widening(run, 12)
    model.both = False
    refused = run.surgeon.modify_layer_width(layer_name="first", new_width=16)
    assert "other" in str(refused.error)
    model.both = True
    _runs_of_widening(run, 16)
    assert model.other.in_features == 16


def test_a_refusal_leaves_what_is_known_of_the_structure(engine: Engine) -> None:
    model = TwoHeaded()
    model.both = True
    run = _run(engine, model)
    _runs_of_widening(run, 12)
    again = _runs_of_widening(run, 16)
    assert not run.surgeon.modify_layer_width(layer_name="nowhere", new_width=16).success
    assert _runs_of_widening(run, 20) == again


def test_only_the_last_structures_are_remembered() -> None:
    memory = StructureMemory()
    for number in range(KEPT + 1):
        memory.learn(str(number), gradients=frozenset((str(number),)))
    assert memory.of("0").gradients is None
    assert memory.of(str(KEPT)).gradients == {str(KEPT)}
