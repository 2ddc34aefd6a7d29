"""Surgeries of one model, repeated on another run."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from models import CONV_NET, NESTED_CNN, NESTED_MLP
from torch import nn
from training import adam, attached, momentum, train_run

from esper_es import Engine, Run, blueprint
from esper_es.domain.facts import LayerAdded, LayerWidthModified

from .grown import grown, tampering
from .photograph import differences, photograph


def test_surgeries_are_repeated_on_another_model_with_the_same_new_tensors(engine: Engine) -> None:
    run = grown(engine)
    other = attached(engine, NESTED_MLP, adam, name="other")
    train_run(other, NESTED_MLP)
    results = engine.replay_surgeries("model", other)
    assert [r.success for r in results] == [True, True, True]
    assert other.architecture.fingerprint == run.architecture.fingerprint
    added = next(e.version for e in engine.history("model") if isinstance(e.fact, LayerAdded))
    born = engine.replay("model", added).get_parameter("deeper.weight")
    assert torch.equal(other.model.get_parameter("deeper.weight"), born)
    assert tampering(engine) == []


def test_a_repeated_surgery_says_what_it_repeats(engine: Engine) -> None:
    grown(engine)
    other = attached(engine, NESTED_MLP, adam, name="other")
    engine.replay_surgeries("model", other)
    reasons = [e.cause.reasoning for e in engine.history("other") if "repeats version" in e.cause.reasoning]
    assert len(reasons) == 6
    assert all("of model" in reason for reason in reasons)


def test_surgeries_that_were_rolled_back_are_not_repeated(engine: Engine) -> None:
    run = grown(engine)
    run.rollback(2)
    other = attached(engine, NESTED_MLP, adam, name="other")
    assert engine.replay_surgeries("model", other) == []


def test_surgeries_up_to_a_version_are_repeated(engine: Engine) -> None:
    run = grown(engine)
    surgeries = run.state.lineage.edits_of
    other = attached(engine, NESTED_MLP, adam, name="other")
    assert len(engine.replay_surgeries("model", other, version=surgeries[0])) == 1


def test_surgeries_after_a_version_are_repeated(engine: Engine) -> None:
    run = grown(engine)
    surgeries = run.state.lineage.edits_of
    other = attached(engine, NESTED_MLP, adam, name="other")
    engine.replay_surgeries("model", other, version=surgeries[0])
    results = engine.replay_surgeries("model", other, since=surgeries[0])
    assert [r.success for r in results] == [True] * (len(surgeries) - 1)
    assert other.architecture.fingerprint == run.architecture.fingerprint


def test_a_repeated_width_is_recorded_as_it_was(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    run.surgeon.modify_layer_width(layer_name="0", new_width=12)
    other = attached(engine, NESTED_MLP, name="other")
    engine.replay_surgeries("model", other)
    first, second = (engine.history(name)[-1].fact for name in ("model", "other"))
    assert isinstance(first, LayerWidthModified)
    assert isinstance(second, LayerWidthModified)
    assert (second.dimension, second.units, second.method) == (first.dimension, first.units, first.method)


def test_repeated_surgeries_can_be_rolled_back_and_trained_on(engine: Engine) -> None:
    grown(engine)
    other = attached(engine, NESTED_MLP, adam, name="other")
    before = other.state_fingerprint
    engine.replay_surgeries("model", other)
    train_run(other, NESTED_MLP)
    assert other.rollback(2).success
    assert other.state_fingerprint == before


def test_a_surgery_that_does_not_fit_is_refused_recorded_and_ends_the_repetition(engine: Engine) -> None:
    grown(engine)
    other = attached(engine, NESTED_CNN, adam, name="other")
    before, version = photograph(other), other.version
    results = engine.replay_surgeries("model", other)
    assert [r.success for r in results] == [False]
    assert differences(before, photograph(other)) == []
    assert [type(e.fact).__name__ for e in engine.history("other")[version:]] == ["SurgeryRefused"]


def test_surgeries_are_repeated_from_a_model_with_a_custom_forward(engine: Engine) -> None:
    run = attached(engine, CONV_NET, momentum)
    run.surgeon.modify_layer_width(layer_name="conv1", new_width=9)
    run.surgeon.remove_layer(layer_name="conv2", bridge_strategy="learned")
    other = attached(engine, CONV_NET, adam, name="other")
    assert all(r.success for r in engine.replay_surgeries("model", other))
    assert other.architecture.fingerprint == run.architecture.fingerprint
    x = CONV_NET.batch()
    assert torch.isfinite(other.model.eval()(x)).all()


class Attention(nn.Module):
    """Heads of some channels, four by default; only its code knows."""

    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.q, self.k, self.v, self.leave = (nn.Linear(16, 16) for _ in range(4))
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (f(x).unflatten(-1, (-1, self.size)).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        y: torch.Tensor = self.leave(mixed.transpose(1, 2).flatten(2))
        return y


blueprint("tests/repeated-attention")(Attention)


@pytest.mark.parametrize(
    ("new_width", "unit"), [(1, "heads"), (3, "heads"), (6, "head_size"), (2, "head_size")], ids=str
)
def test_what_was_done_to_heads_is_repeated_on_a_twin(new_width: int, unit: str, engine: Engine) -> None:
    model, x = Attention(), torch.randn(3, 5, 16)
    runs = [
        engine.attach(copy.deepcopy(model), name, (x,), blueprint="tests/repeated-attention")
        for name in ("one", "twin")
    ]
    assert runs[0].surgeon.modify_layer_width(layer_name="q", new_width=new_width, unit=unit).success
    (repeated,) = engine.replay_surgeries("one", runs[1])
    assert repeated.success, repeated.error
    assert runs[1].fingerprint == runs[0].fingerprint


def test_what_was_done_to_heads_is_proven_anew_where_they_may_be_others(engine: Engine) -> None:
    x = torch.randn(3, 5, 16)
    one, other = (
        engine.attach(
            Attention(size), name, (x,), blueprint="tests/repeated-attention", blueprint_args={"size": size}
        )
        for name, size in (("one", 4), ("other", 8))
    )
    assert one.architecture.fingerprint == other.architecture.fingerprint
    assert one.surgeon.modify_layer_width(layer_name="q", new_width=3, unit="heads").success
    (repeated,) = engine.replay_surgeries("one", other)
    assert (repeated.success, other.model.get_parameter("q.weight").shape) == (False, (16, 16))


def chain(engine: Engine, name: str, sizes: tuple[int, int, int], dtype: torch.dtype) -> Run:
    enter, inner, leave = sizes
    model = nn.Sequential(nn.Linear(enter, inner), nn.ReLU(), nn.Linear(inner, leave)).to(dtype)
    return engine.attach(model, name, (torch.randn(4, enter, dtype=dtype),))


@pytest.mark.parametrize(
    ("sizes", "dtype", "other"),
    [
        ((5, 8, 3), torch.float32, r"\(8, 5\) float32"),
        ((7, 8, 3), torch.float32, r"\(8, 7\) float32"),
        ((6, 9, 3), torch.float32, r"\(9, 6\) float32"),
        ((6, 8, 3), torch.float64, r"\(8, 6\) float64"),
    ],
    ids=["narrower", "wider", "longer", "of another dtype"],
)
def test_new_entries_that_do_not_fit_are_refused(
    sizes: tuple[int, int, int], dtype: torch.dtype, other: str, engine: Engine
) -> None:
    run = chain(engine, "one", (6, 8, 3), torch.float32)
    assert run.surgeon.modify_layer_width(layer_name="0", new_width=12).success
    onto = chain(engine, "other", sizes, dtype)
    before = photograph(onto)
    (repeated,) = engine.replay_surgeries("one", onto)
    assert repeated.check == "repeats"
    assert re.search(rf"'0.weight' of shape \(8, 6\) float32, which is of shape {other}", str(repeated.error))
    assert differences(before, photograph(onto)) == []


def test_where_nothing_was_recorded_for_it_a_tensor_may_have_another_shape(engine: Engine) -> None:
    run = chain(engine, "one", (6, 8, 3), torch.float32)
    assert run.surgeon.modify_layer_width(layer_name="0", new_width=12).success
    onto = chain(engine, "other", (6, 8, 2), torch.float32)
    (repeated,) = engine.replay_surgeries("one", onto)
    assert repeated.success, repeated.error
    assert torch.equal(onto.model[0].weight[8:], run.model[0].weight[8:])
