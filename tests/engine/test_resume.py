"""Attaching to a name with history: the run goes on where the log says it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import CONV_NET, NESTED_MLP, TIED_NET, Zoolet
from torch import nn
from training import adam, adamw, attached, momentum, optimizer_of, train_run

from esper_es import (
    CapturePolicy,
    Engine,
    SurgeryConstraints,
    UsageError,
    WatchPolicy,
    failpoints,
    fingerprint,
)
from esper_es.domain.facts import RolledBack, RunResumed


def lived(url: str, zoolet: Zoolet = NESTED_MLP) -> tuple[str, int]:
    """Train, operate and capture in an engine that is closed then; return the state and its version."""
    with Engine(url) as engine:
        run = attached(engine, zoolet, adam)
        train_run(run, zoolet, 2)
        layer = next(p for p, m in run.model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d)))
        run.surgeon.modify_layer_width(layer_name=layer, new_width=9)
        train_run(run, zoolet)
        run.capture()
        return run.state_fingerprint, run.version


def test_a_base_model_is_brought_to_the_logs_newest_state_in_place(url: str) -> None:
    state, version = lived(url)
    with Engine(url) as engine:
        model = NESTED_MLP.build()
        run = attached(engine, NESTED_MLP, adam, model=model)
        assert run.model is model
        assert (run.state_fingerprint, run.version) == (state, version + 1)


def test_a_model_of_the_newest_structure_resumes_too(url: str) -> None:
    state, _ = lived(url)
    with Engine(url) as engine:
        run = attached(engine, NESTED_MLP, adam, model=engine.replay("model"))
        assert run.state_fingerprint == state


def test_a_resumed_run_trains_on_as_the_first_would_have(url: str) -> None:
    lived(url)
    ends = []
    for _ in range(2):
        with Engine(url) as engine:
            run = attached(engine, NESTED_MLP, adam)
            train_run(run, NESTED_MLP, 3)
            ends.append(run.fingerprint)
    assert ends[0] == ends[1]


def test_that_a_run_was_resumed_is_a_fact_and_an_exact_version(url: str) -> None:
    lived(url)
    with Engine(url) as engine:
        run = attached(engine, NESTED_MLP, adam)
        assert isinstance(engine.history("model")[-1].fact, RunResumed)
        assert fingerprint(engine.replay("model")) == run.fingerprint
        assert engine.replay("model").esper_replay.exact  # type: ignore[union-attr]


def test_training_past_the_last_capture_is_given_up_by_a_recorded_rollback(url: str) -> None:
    with Engine(url) as engine:
        run = attached(engine, NESTED_MLP, adam)
        version, captured = run.capture(), run.state_fingerprint
        train_run(run, NESTED_MLP, 2)
        run.epoch_end()
    with Engine(url) as engine:
        run = attached(engine, NESTED_MLP, adam)
        rolled, resumed = (envelope.fact for envelope in engine.history("model")[-2:])
        assert isinstance(rolled, RolledBack)
        assert isinstance(resumed, RunResumed)
        assert (rolled.trigger, rolled.to_version, rolled.steps_discarded) == ("resume", version, 2)
        assert run.state_fingerprint == captured


def test_another_architecture_is_refused_and_left_as_it_was(url: str) -> None:
    lived(url)
    with Engine(url) as engine:
        stranger = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
        before = fingerprint(stranger)
        with pytest.raises(UsageError, match="has another architecture"):
            attached(engine, NESTED_MLP, adam, model=stranger)
        assert fingerprint(stranger) == before


def test_a_model_under_another_optimizer_is_refused_and_left_as_it_was(url: str) -> None:
    lived(url)
    with Engine(url) as engine:
        model = NESTED_MLP.build()
        optimizer = momentum(model)
        before, generator = fingerprint(model), torch.get_rng_state()
        with pytest.raises(UsageError, match="the captured one was a Adam"):
            engine.attach(model, name="model", example_inputs=(torch.ones(4, 6),), optimizer=optimizer)
        assert (fingerprint(model), optimizer.state) == (before, {})
        assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize("parts", ["none", "groups"])
def test_an_optimizer_that_is_missing_or_has_other_groups_is_named(url: str, parts: str) -> None:
    lived(url)
    make = {"none": None, "groups": lambda m: torch.optim.Adam([{"params": [p]} for p in m.parameters()])}[
        parts
    ]
    with Engine(url) as engine, pytest.raises(UsageError, match=r"no optimizer|parameter groups"):
        attached(engine, NESTED_MLP, make)


def test_tied_weights_and_shared_layers_resume_tied_and_shared(url: str) -> None:
    with Engine(url) as engine:
        run = attached(engine, TIED_NET, adamw)
        train_run(run, TIED_NET)
        run.capture()
        state = run.state_fingerprint
    with Engine(url) as engine:
        run = attached(engine, TIED_NET, adamw)
        assert run.state_fingerprint == state
        assert run.model.get_parameter("encode.weight") is run.model.get_parameter("decode.weight")


def test_skips_and_seeds_are_hosted_again(url: str) -> None:
    with Engine(url) as engine:
        run = attached(engine, CONV_NET, adam)
        run.surgeon.add_skip_connection(from_layer="conv1", to_layer="conv3")
        run.seeds.plant("seed", "conv2")
        run.seeds.germinate("seed", "bottleneck")
        seen, x = run.fingerprint, CONV_NET.batch()
        expected = run.model.eval()(x)
    with Engine(url) as engine:
        run = attached(engine, CONV_NET, adam)
        assert run.fingerprint == seen
        assert torch.equal(run.model.eval()(x), expected)
        assert run.seeds["seed"].stage == "GERMINATED"


def test_steps_go_on_being_counted(url: str) -> None:
    lived(url)
    with Engine(url) as engine:
        run = attached(engine, NESTED_MLP, adam)
        counted = run.session.step
        train_run(run, NESTED_MLP, 2)
        assert run.session.step == counted + 2
        assert optimizer_of(run).state


OTHER_TERMS: dict[str, Any] = {
    "constraints": SurgeryConstraints(max_layers_to_add=1),
    "watch": WatchPolicy(metric="loss", mode="min"),
    "capture": CapturePolicy(keep_last=1),
}


@pytest.mark.parametrize("term", OTHER_TERMS)
def test_other_terms_than_the_recorded_ones_are_refused(url: str, term: str) -> None:
    lived(url)
    with Engine(url) as engine, pytest.raises(UsageError, match=term):
        attached(engine, NESTED_MLP, adam, **{term: OTHER_TERMS[term]})


def test_a_resume_that_cannot_be_recorded_leaves_the_model_as_it_was(url: str) -> None:
    lived(url)
    with Engine(url) as engine:
        model = NESTED_MLP.build()
        optimizer = adam(model)
        before, generator = fingerprint(model), torch.get_rng_state()
        with (
            failpoints.raising("ledger.inserted", OSError("no space left")),
            pytest.raises(OSError, match="space"),
        ):
            engine.attach(model, name="model", example_inputs=(torch.ones(4, 6),), optimizer=optimizer)
        assert (fingerprint(model), optimizer.state) == (before, {})
        assert torch.equal(torch.get_rng_state(), generator)
