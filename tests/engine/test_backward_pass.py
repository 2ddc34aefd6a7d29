"""What a trial sees of a backward pass, and what it leaves behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from esper_es.example_inputs import ExampleCall, ExampleInputs
from esper_es.validators.backward import backward_pass, gradient_flow, gradients_of


def _examples(*batches: torch.Tensor) -> ExampleInputs:
    return ExampleInputs(tuple(ExampleCall((batch,), {}) for batch in batches))


class Branching(nn.Module):
    """Positive batches take one branch, others another; one parameter is never used, one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(3, 3)
        self.positive = nn.Linear(3, 3)
        self.negative = nn.Linear(3, 3)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.positive if bool((x > 0).all()) else self.negative
        return branch(self.enter(self.enter(x)))


def test_every_parameter_that_some_example_reaches_is_seen() -> None:
    flow = gradient_flow(Branching(), _examples(torch.ones(2, 3), -torch.ones(2, 3)))
    assert {name for name, finite in flow.items() if finite is None} == {"unused"}


def test_a_gradient_that_is_not_finite_is_told() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].weight.data.fill_(float("inf"))
    assert gradient_flow(model, _examples(torch.ones(2, 2)))["1.weight"] is False


def test_one_part_that_is_not_finite_is_enough() -> None:
    model = nn.Linear(2, 2)
    huge = torch.full((2, 2), 1e30)
    assert gradient_flow(model, _examples(huge, torch.ones(2, 2)))["weight"] is False


def test_gradients_are_those_that_autograd_leaves() -> None:
    model, batches = Branching(), (torch.rand(4, 3), torch.rand(4, 3))
    found = gradients_of(model, _examples(*batches), {"enter.weight"})["enter.weight"]
    for batch in batches:
        output = model(batch)
        ((output**2).sum() + output.sum()).backward()
    torch.testing.assert_close(found, model.enter.weight.grad)


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.inner = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = checkpoint(self.inner, self.enter(x), use_reentrant=True)
        return result


def test_gradients_inside_reentrant_checkpoints_are_seen() -> None:
    assert gradient_flow(Checkpointed(), _examples(torch.ones(2, 3)))["inner.weight"] is True


def test_gradients_that_waited_are_there_afterwards() -> None:
    model = nn.Linear(2, 2)
    model.weight.grad = waiting = torch.ones(2, 2)
    gradient_flow(model, _examples(torch.ones(2, 2)))
    assert model.weight.grad is waiting


def test_no_gradient_is_kept_while_others_are_computed() -> None:
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(6)))
    alive: list[int] = []

    def look(name: str, gradient: torch.Tensor) -> None:
        alive.append(sum(parameter.grad is not None for parameter in model.parameters()))

    backward_pass(model, _examples(torch.ones(2, 4)), look)
    assert alive == [0] * 12


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.Dropout])
def test_buffers_flags_and_generators_are_as_before(kind: type[nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(3, 3), kind(3) if kind is nn.BatchNorm1d else kind()).eval()
    examples = _examples(torch.rand(4, 3))
    before = ({k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state())
    gradient_flow(model, examples)
    after = (model.state_dict(), torch.get_rng_state())
    assert not model.training
    assert torch.equal(before[1], after[1])
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
