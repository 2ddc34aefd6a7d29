"""Groups that lie side by side in one dimension and that the model's code takes for one: they change together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from esper_es import Engine, ModelSurgeon, SurgeryResult, blueprint, fingerprint

X = torch.randn(3, 7, 5)


class Talking(nn.Module):
    """Heads of queries and keys, mixed with one another before they meet the heads of values (Shazeer et al. 2020).

    The rows of all three are packed, and cut by one number of heads.
    """

    def __init__(self) -> None:
        super().__init__()
        self.heads = 3
        self.packed, self.leave = nn.Linear(5, 36), nn.Linear(12, 2)
        self.logits, self.weights = nn.Linear(3, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        packed = self.packed(x).view(*x.shape[:2], 3, self.heads, 4).permute(2, 0, 3, 1, 4)
        q, k, v = packed[0], packed[1], packed[2]
        scores = self.logits((q @ k.transpose(-1, -2)).permute(0, 2, 3, 1)).softmax(2)
        mixed = self.weights(scores).permute(0, 3, 1, 2) @ v
        y: Tensor = self.leave(mixed.transpose(1, 2).flatten(2))
        return y


def changed(model: Talking, heads: int, initialization: str = "function_preserving") -> SurgeryResult:
    surgeon = ModelSurgeon(example_inputs=(X,))
    return surgeon.modify_layer_width(
        model, "logits", heads, initialization, unit="units", dimension="in", importance=first_most
    )


def first_most(model: nn.Module, group: object) -> list[float]:
    return [3.0, 2.0, 1.0]


@pytest.mark.parametrize("heads", [2, 5])
def test_both_kinds_of_heads_change(heads: int) -> None:
    model = Talking()
    assert changed(model, heads).success
    assert (model.heads, model.packed.out_features) == (heads, 12 * heads)
    assert (model.logits.in_features, model.weights.out_features) == (heads, heads)


def test_more_heads_compute_what_was_computed() -> None:
    model = Talking()
    before = model(X)
    changed(model, 5)
    torch.testing.assert_close(model(X), before)


def test_fewer_heads_compute_what_they_did_beside_heads_that_nobody_reads() -> None:
    model, fewer = Talking(), Talking()
    fewer.load_state_dict(model.state_dict())
    changed(fewer, 2)
    with torch.no_grad():
        model.logits.weight[:, 2] = 0
        model.leave.weight[:, 8:] = 0
    torch.testing.assert_close(fewer(X), model(X))


def test_new_rows_stand_behind_their_own_part() -> None:
    model = Talking()
    before = model.packed.weight.detach().clone().view(3, 12, 5)
    changed(model, 4)
    assert torch.equal(model.packed.weight.detach().view(3, 16, 5)[:, :12], before)


@pytest.mark.parametrize("initialization", ["zeros", "net2wider"])
def test_what_looks_at_a_whole_dimension_is_refused(initialization: str) -> None:
    assert changed(Talking(), 4, initialization).check == "initialization"


@pytest.mark.parametrize("heads", [2, 4])
def test_such_a_change_is_replayed_and_rolled_back(heads: int, engine: Engine) -> None:
    blueprint("tests/talking")(Talking)
    model = Talking()
    optimizer = torch.optim.Adam(model.parameters())
    torch.autograd.backward(model(X).square().sum())
    optimizer.step()
    optimizer.zero_grad()
    run = engine.attach(model, "model", example_inputs=(X,), optimizer=optimizer, blueprint="tests/talking")
    before = run.state_fingerprint
    result = run.surgeon.modify_layer_width(
        layer_name="logits", new_width=heads, unit="units", dimension="in"
    )
    assert result.success, result.error
    assert fingerprint(engine.replay("model")) == run.fingerprint
    assert result.undo_version is not None
    run.rollback(result.undo_version)
    assert run.state_fingerprint == before
