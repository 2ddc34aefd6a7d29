"""Parts of a run that begin anew, and groups of an optimizer that come and go: all told by the log."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import NESTED_MLP
from torch import nn
from training import adam, attached, momentum, optimizer_of, train_run

from esper_es import Engine, Run, UsageError
from esper_es.domain.facts import RolledBack, RunResumed

from .grown import grown, tampering
from .photograph import differences, photograph


def resumed_anew(engine: Engine, **terms: Any) -> Run:
    return attached(engine, NESTED_MLP, momentum, fresh=("optimizer",), **terms)


@pytest.fixture
def lived(url: str) -> str:
    """URL of a log in which a run under Adam was grown and captured."""
    with Engine(url) as engine:
        grown(engine)
    return url


def test_a_run_goes_on_with_another_optimizer_and_says_so(lived: str) -> None:
    with Engine(lived) as engine:
        seen = engine.state("model").captures
        run = resumed_anew(engine)
        fact = next(e.fact for e in reversed(engine.history("model")) if isinstance(e.fact, RunResumed))
        assert fact.fresh == ("optimizer",)
        assert run.fingerprint == max(seen.items())[1].model_fingerprint
        assert dict(optimizer_of(run).state) == {}


def test_the_new_optimizer_holds_every_parameter_once_and_trains_them(lived: str) -> None:
    with Engine(lived) as engine:
        run = resumed_anew(engine)
        held = [id(p) for group in optimizer_of(run).param_groups for p in group["params"]]
        assert sorted(held) == sorted(id(p) for p in run.model.parameters())
        train_run(run, NESTED_MLP)
        assert all(p in optimizer_of(run).state for p in run.model.parameters())
        assert run.surgeon.modify_layer_width(layer_name="0", new_width=14).success
        train_run(run, NESTED_MLP)


def test_the_run_that_began_anew_can_be_restored(lived: str) -> None:
    with Engine(lived) as engine:
        run = resumed_anew(engine)
        version, state = run.version, run.state_fingerprint
        train_run(run, NESTED_MLP)
        assert run.rollback(version).success
        assert run.state_fingerprint == state


def test_it_resumes_without_being_asked_again(lived: str) -> None:
    with Engine(lived) as engine:
        run = resumed_anew(engine)
        train_run(run, NESTED_MLP)
        run.capture()
        state = run.state_fingerprint
    with Engine(lived) as engine:
        assert attached(engine, NESTED_MLP, momentum).state_fingerprint == state
        assert tampering(engine) == []


def test_going_back_to_before_it_leaves_the_new_optimizer_empty_and_says_so(lived: str) -> None:
    with Engine(lived) as engine:
        run = resumed_anew(engine)
        train_run(run, NESTED_MLP)
        left = run.state_fingerprint
        undo = run.rollback(2).undo_version
        assert undo is not None
        fact = next(e.fact for e in reversed(engine.history("model")) if isinstance(e.fact, RolledBack))
        assert (fact.fresh, fact.expected_fingerprint) == (("optimizer",), None)
        assert dict(optimizer_of(run).state) == {}
        version, state = run.version, run.state_fingerprint
        train_run(run, NESTED_MLP)
        assert run.rollback(version).success
        assert run.state_fingerprint == state
        assert run.rollback(undo).success
        assert run.state_fingerprint == left


def test_training_that_was_not_captured_is_given_up_all_the_same(url: str) -> None:
    with Engine(url) as engine:
        train_run(grown(engine), NESTED_MLP)
    with Engine(url) as engine:
        run = resumed_anew(engine)
        kinds = [type(e.fact).__name__ for e in engine.history("model")[-4:]]
        assert kinds == ["RolledBack", "StateCaptured", "RunResumed", "StateCaptured"]
        assert run.rollback(run.version).success


def test_a_run_can_go_on_without_an_optimizer_or_with_a_scheduler_that_it_had_not(lived: str) -> None:
    with Engine(lived) as engine:
        assert attached(engine, NESTED_MLP, None, fresh=("optimizer",)).version
    with Engine(lived) as engine:
        model = NESTED_MLP.build()
        optimizer = adam(model)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
        inputs = (NESTED_MLP.batch(),)
        run = engine.attach(model, "model", inputs, optimizer, scheduler, fresh=("optimizer", "scheduler"))
        assert run.rollback(run.version).success


@pytest.mark.parametrize("fresh", ["optimizer", ("model",), ("optimizer", 3)])
def test_what_is_no_part_is_misuse(fresh: Any, lived: str) -> None:
    with Engine(lived) as engine, pytest.raises(UsageError, match="among optimizer, scheduler, scaler"):
        attached(engine, NESTED_MLP, adam, fresh=fresh)


def test_without_being_asked_another_optimizer_is_refused_saying_how_to_ask(lived: str) -> None:
    with Engine(lived) as engine, pytest.raises(UsageError, match=r"fresh=\('optimizer',\)"):
        attached(engine, NESTED_MLP, momentum)


def test_a_group_added_since_goes_and_comes_with_the_versions(engine: Engine) -> None:
    model = NESTED_MLP.build()
    first, *others = model.parameters()
    optimizer = torch.optim.Adam([{"params": others}])
    run = engine.attach(model, "model", (NESTED_MLP.batch(),), optimizer)
    train_run(run, NESTED_MLP)
    before, state = run.capture(), run.state_fingerprint
    optimizer.add_param_group({"params": [first], "lr": 0.5})
    train_run(run, NESTED_MLP)
    after, state_after = run.capture(), run.state_fingerprint
    assert run.rollback(before).success
    assert (len(optimizer.param_groups), run.state_fingerprint) == (1, state)
    assert run.rollback(after).success
    assert (len(optimizer.param_groups), run.state_fingerprint) == (2, state_after)
    train_run(run, NESTED_MLP)


def test_parameters_of_no_model_leave_the_optimizer_by_a_rollback(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam)
    version, state = run.capture(), run.state_fingerprint
    optimizer_of(run).add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
    before = photograph(run)
    with pytest.raises(UsageError, match="not in the model"):
        run.capture()
    assert differences(before, photograph(run)) == []
    assert run.rollback(version).success
    assert run.state_fingerprint == state
