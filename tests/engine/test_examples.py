"""Several example inputs, so that branches are covered; and what no example reaches."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from esper_es import Engine, Run, UsageError, blueprint
from esper_es.domain.facts import ModelRegistered
from esper_es.stored_examples import load_examples


class TwoWays(nn.Module):
    """Takes one branch or the other, by an argument."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 8)
        self.left = nn.Linear(8, 8)
        self.right = nn.Linear(8, 8)
        self.leave = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, way: str = "left") -> torch.Tensor:
        x = torch.relu(self.enter(x))
        x = torch.relu(self.left(x) if way == "left" else self.right(x))
        scores: torch.Tensor = self.leave(x)
        return scores


blueprint("tests/two-ways")(TwoWays)


def left() -> dict[str, Any]:
    return {"x": torch.randn(4, 6), "way": "left"}


def right() -> dict[str, Any]:
    return {"x": torch.randn(3, 6), "way": "right"}


def attached(engine: Engine, *examples: dict[str, Any]) -> Run:
    model = TwoWays()
    optimizer = torch.optim.AdamW(model.parameters())
    given = examples[0] if len(examples) == 1 else list(examples)
    return engine.attach(model, "model", given, optimizer, blueprint="tests/two-ways")


def test_a_width_that_an_unseen_branch_may_need_is_refused_with_what_to_do(engine: Engine) -> None:
    result = attached(engine, left()).surgeon.modify_layer_width(layer_name="enter", new_width=12)
    assert not result.success
    assert "never reach right.weight" in (result.error or "")
    assert "example_inputs=[a, b]" in (result.error or "")


@pytest.mark.parametrize("width", [12, 5])
def test_with_an_example_for_each_branch_the_width_changes_in_both(width: int, engine: Engine) -> None:
    run = attached(engine, left(), right())
    assert run.surgeon.modify_layer_width(layer_name="enter", new_width=width).success
    assert run.model.get_parameter("left.weight").shape == (8, width)
    assert run.model.get_parameter("right.weight").shape == (8, width)
    for example in (left(), right()):
        run.model(**example)


def test_an_example_can_be_added_later(engine: Engine) -> None:
    run = attached(engine, left())
    assert not run.surgeon.modify_layer_width(layer_name="enter", new_width=12).success
    run.add_examples(right())
    assert run.surgeon.modify_layer_width(layer_name="enter", new_width=12).success


def test_an_example_that_the_model_does_not_take_is_not_added(engine: Engine) -> None:
    run = attached(engine, left())
    with pytest.raises(UsageError, match="does not run on its example inputs"):
        run.add_examples({"x": torch.randn(4, 7)})
    assert len(run.session.examples.calls) == 1


@pytest.mark.parametrize("connection_type", ["sequential", "residual"])
def test_a_layer_is_inserted_in_the_branch_that_the_second_example_takes(
    connection_type: str, engine: Engine
) -> None:
    run = attached(engine, left(), right())
    result = run.surgeon.add_layer(
        after_layer="right", new_layer=nn.Linear(8, 8), layer_name="new", connection_type=connection_type
    )
    assert result.success, result.error
    run.model(**right())


def test_an_insertion_that_no_example_reaches_is_refused_with_what_to_do(engine: Engine) -> None:
    run = attached(engine, left())
    result = run.surgeon.add_layer(after_layer="right", new_layer=nn.Linear(8, 8), layer_name="new")
    assert result.check == "not_executed"
    assert "run.add_examples" in (result.error or "")


def test_a_removal_in_the_second_branch_leaves_both_running(engine: Engine) -> None:
    run = attached(engine, left(), right())
    assert run.surgeon.remove_layer(layer_name="right").success
    for example in (left(), right()):
        run.model(**example)


def test_a_skip_between_branches_is_refused(engine: Engine) -> None:
    result = attached(engine, left(), right()).surgeon.add_skip_connection(
        from_layer="left", to_layer="right"
    )
    assert result.check == "different_branches"


def test_a_skip_around_a_branch_must_hold_on_the_other_one_too(engine: Engine) -> None:
    run = attached(engine, left(), right())
    assert not run.surgeon.add_skip_connection(from_layer="left", to_layer="leave").success
    assert run.surgeon.add_skip_connection(from_layer="enter", to_layer="leave").success
    for example in (left(), right()):
        run.model(**example)


def test_a_skip_to_a_layer_that_no_example_reaches_is_refused(engine: Engine) -> None:
    result = attached(engine, left()).surgeon.add_skip_connection(from_layer="enter", to_layer="right")
    assert result.check == "not_executed"


def test_a_rollback_and_a_replay_need_no_examples(engine: Engine) -> None:
    run = attached(engine, left(), right())
    run.surgeon.modify_layer_width(layer_name="enter", new_width=12)
    replay: Any = engine.replay("model")
    assert replay.esper_replay.exact
    assert run.rollback(2).success


@pytest.mark.parametrize("given", [[], [3], "x", [[torch.ones(1)]]])
def test_other_things_are_no_example_inputs(given: Any, engine: Engine) -> None:
    with pytest.raises(UsageError, match="a list of these"):
        engine.attach(TwoWays(), "model", given, blueprint="tests/two-ways")


def test_example_inputs_are_kept_in_the_vault(engine: Engine) -> None:
    run = attached(engine, left(), right())
    fact = engine.history("model")[0].fact
    assert isinstance(fact, ModelRegistered)
    assert fact.examples is not None
    kept = load_examples(engine.vault, fact.examples)
    for found, given in zip(kept.fresh(), run.session.examples.fresh(), strict=True):
        assert torch.equal(found[1]["x"], given[1]["x"])
        assert found[1]["way"] == given[1]["way"]


def test_example_inputs_that_only_pickle_could_store_are_not_kept(engine: Engine) -> None:
    run = attached(engine, {**left(), "way": object()})
    fact = engine.history("model")[0].fact
    assert isinstance(fact, ModelRegistered)
    assert fact.examples is None
    assert run.surgeon.add_layer(after_layer="right", new_layer=nn.ReLU(), layer_name="new").success


def test_an_explanation_is_for_people_and_for_programs(engine: Engine) -> None:
    explanation = attached(engine, left(), right()).surgeon.explain("enter")
    assert "free to grow and shrink" in str(explanation)
    document = json.loads(explanation.as_json())
    assert document == explanation.as_dict()
    assert (document["tensor"], document["units"], document["free"]) == ("enter.weight", 8, True)
    assert {m["tensor"] for m in document["members"]} >= {"left.weight", "right.weight"}


def test_what_no_example_reaches_is_pinned_in_its_explanation(engine: Engine) -> None:
    explanation = attached(engine, left()).surgeon.explain("right")
    assert not explanation.free
    assert "was executed by no example" in str(explanation)
