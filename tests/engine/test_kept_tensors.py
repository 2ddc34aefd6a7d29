"""Models that keep what they computed from parameters until they are trained again, as LeViT does in timm."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from esper_es import Engine, Run, blueprint


class Biased(nn.Module):
    """Heads with a bias each, which is looked up once for all evaluations."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 12)
        self.biases = nn.Parameter(torch.randn(12))
        self.leave = nn.Linear(12, 3)
        self.kept: dict[str, torch.Tensor] = {}

    def train(self, mode: bool = True) -> Biased:
        super().train(mode)
        if mode:
            self.kept = {}
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            biases = self.biases * 2
        else:
            if "biases" not in self.kept:
                self.kept["biases"] = self.biases * 2
            biases = self.kept["biases"]
        result: torch.Tensor = self.leave(torch.relu(self.enter(x) + biases))
        return result


@blueprint("tests/biased")
def biased() -> nn.Module:
    return Biased()


X = torch.randn(4, 6)


@pytest.fixture
def run() -> Run:
    return Engine("sqlite://").attach(Biased().eval(), "model", X, blueprint="tests/biased")


def test_a_model_that_was_evaluated_with_gradients_is_changed(run: Run) -> None:
    before = run.model(X)
    assert run.surgeon.modify_layer_width(layer_name="enter", new_width=14).success
    assert torch.equal(run.model(X), before)


def test_what_was_kept_is_computed_anew_after_a_surgery(run: Run) -> None:
    with torch.no_grad():
        run.model(X)
    assert run.surgeon.modify_layer_width(layer_name="enter", new_width=14).success
    with torch.no_grad():
        run.model(X)
    assert run.model.kept["biases"].shape == (14,)


def test_what_was_kept_is_computed_anew_after_a_rollback(run: Run) -> None:
    with torch.no_grad():
        before = run.model(X)
        version = run.capture()
        run.model.train()
        run.model.biases.add_(1.0)
        run.model.eval()
        assert not torch.equal(run.model(X), before)
        assert run.rollback(version).success
        assert torch.equal(run.model(X), before)


def test_flags_stay_as_they_are(run: Run) -> None:
    run.model.leave.train()
    with torch.no_grad():
        run.model(X)
    run.surgeon.modify_layer_width(layer_name="enter", new_width=14)
    assert [part.training for part in run.model.modules()] == [False, False, True]
