"""Skips into, out of, between and within segments that gradient checkpointing runs twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from blocks import attached_blocks, model_named
from torch import nn
from torch.utils.checkpoint import checkpoint

from esper_es import Engine, Run, blueprint


class Segments(nn.Module):
    """Two segments, checkpointed or not, between two layers that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 8)
        self.first = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
        self.second = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
        self.leave = nn.Linear(8, 3)
        self.reentrant: bool | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.enter(x))
        x = torch.tanh(self._segment(self.first, x))
        x = torch.tanh(self._segment(self.second, x))
        y: torch.Tensor = self.leave(x)
        return y

    def _segment(self, part: nn.Module, x: torch.Tensor) -> torch.Tensor:
        if self.reentrant is None or not self.training:
            y: torch.Tensor = part(x)
            return y
        made: torch.Tensor = checkpoint(part, x, use_reentrant=self.reentrant)
        return made


blueprint("tests/segments")(Segments)


@pytest.fixture
def run(engine: Engine) -> Run:
    return engine.attach(
        Segments(), name="model", example_inputs=(torch.randn(4, 6),), blueprint="tests/segments"
    )


def gradients(model: nn.Module, *batches: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    losses = [model.train()(x).square().sum() for x in batches]
    torch.autograd.backward(torch.stack(losses).sum())
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


ENDS = [
    ("enter", "first.2"), ("enter", "leave"), ("first.0", "leave"), ("first.0", "second.2"), ("first.0", "first.2"),
    ("first.2", "second"), ("first", "second"),
]  # fmt: skip


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not-reentrant"])
@pytest.mark.parametrize("connection_type", ["add", "concat"])
@pytest.mark.parametrize(("source", "target"), ENDS)
def test_checkpointing_gives_the_gradients_that_it_gives_without(
    source: str, target: str, connection_type: str, reentrant: bool, run: Run
) -> None:
    model: Any = run.model
    model.reentrant = reentrant
    result = run.surgeon.add_skip_connection(
        from_layer=source, to_layer=target, connection_type=connection_type
    )
    assert result.success, result.error
    if result.details["projection"]:
        torch.nn.init.normal_(
            run.model.get_parameter(f"{result.details['projection']}{_inside(run, result)}.weight")
        )
    x, other = torch.randn(4, 6), torch.randn(4, 6)
    found = gradients(model, x, other)
    model.reentrant = None
    expected = gradients(model, x, other)
    assert len(found) == len(expected) == len(list(model.parameters()))
    for one, another in zip(found, expected, strict=True):
        torch.testing.assert_close(one, another)


def _inside(run: Run, result: Any) -> str:
    return (
        "" if isinstance(run.model.get_submodule(result.details["projection"]), nn.Linear) else ".projection"
    )


@pytest.mark.parametrize(("source", "target"), ENDS)
def test_a_model_that_is_checkpointed_as_a_whole_recomputes_its_own_segments(
    source: str, target: str, run: Run
) -> None:
    model: Any = run.model
    assert run.surgeon.add_skip_connection(from_layer=source, to_layer=target).success
    x = torch.randn(4, 6)
    expected = gradients(model, x)
    model.reentrant = False
    model.zero_grad()
    checkpoint(model, x, use_reentrant=False).square().sum().backward()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    torch.testing.assert_close(found, expected)


def test_an_evaluation_between_forward_and_backward_does_not_reach_the_recomputation(run: Run) -> None:
    model: Any = run.model
    assert run.surgeon.add_skip_connection(from_layer="enter", to_layer="first.2").success
    x = torch.randn(4, 6)
    expected = gradients(model, x)
    model.reentrant = False
    model.zero_grad()
    loss = model(x).square().sum()
    with torch.no_grad():
        model(torch.randn(4, 6))
    loss.backward()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("reentrant", [True, False])
def test_blocks_of_a_checkpointed_transformer_are_connected(reentrant: bool, engine: Engine) -> None:
    run, inputs = attached_blocks(engine, model_named("llama"))
    model: Any = run.model
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert run.surgeon.add_skip_connection(
        from_layer="model.layers.0.self_attn", to_layer="model.layers.1.mlp"
    ).success
    found = []
    for training in (True, False):
        if not training:
            model.gradient_checkpointing_disable()
        model.zero_grad()
        model.train()(**inputs).logits.square().mean().backward()
        found.append([p.grad.clone() for p in model.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
