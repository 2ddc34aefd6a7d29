"""Forks: a new model that begins where another is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from models import NESTED_MLP
from training import adam, attached, train_run

from esper_es import (
    CapturePolicy,
    ConflictError,
    Engine,
    SurgeryConstraints,
    UsageError,
    fingerprint,
)
from esper_es.domain.facts import ModelRegistered, RolledBack
from esper_es.projections.live.describe import describe

from .grown import audit_rows, forked, grown, seeded, tampering
from .photograph import differences, photograph


def registered(engine: Engine, name: str) -> ModelRegistered:
    fact = engine.history(name)[0].fact
    assert isinstance(fact, ModelRegistered)
    return fact


def test_a_fork_is_what_its_source_is(engine: Engine) -> None:
    run = grown(engine)
    module = engine.fork("model", name="fork")
    assert fingerprint(module) == run.fingerprint
    assert module.esper_replay.exact  # type: ignore[union-attr]


def test_a_fork_takes_up_the_optimizer_and_the_generators_too(engine: Engine) -> None:
    run = grown(engine)
    state = run.state_fingerprint
    assert forked(engine, "model", "fork").state_fingerprint == state


def test_a_fork_says_what_it_was_forked_from(engine: Engine) -> None:
    run = grown(engine)
    engine.fork("model", name="fork")
    assert registered(engine, "fork").forked_from == ("model", run.version)


def test_every_version_that_is_a_capture_or_a_surgery_can_be_forked(engine: Engine) -> None:
    run = grown(engine)
    for version in sorted(run.state.restorable):
        forked_there = engine.fork("model", name=f"fork{version}", version=version)
        assert fingerprint(forked_there) == fingerprint(engine.replay("model", version))
        assert describe(forked_there).fingerprint == engine.state(f"fork{version}").architecture.fingerprint


def test_a_fork_at_a_surgery_has_the_optimizer_state_that_follows_it(engine: Engine) -> None:
    run = grown(engine)
    version = next(v for v, source in run.state.restorable.items() if source.edits_of)
    assert run.rollback(version).success
    state = run.state_fingerprint
    assert forked(engine, "model", "fork", version).state_fingerprint == state


def test_a_fork_and_its_source_train_on_alike_and_apart(engine: Engine) -> None:
    run = grown(engine)
    fork = forked(engine, "model", "fork")
    run.rollback(run.version)
    train_run(run, NESTED_MLP, 3)
    source = run.fingerprint
    fork.rollback(fork.version)
    train_run(fork, NESTED_MLP, 3)
    assert fork.fingerprint == source
    train_run(fork, NESTED_MLP)
    assert (run.fingerprint, fork.fingerprint == source) == (source, False)


def test_what_happens_to_a_fork_does_not_happen_to_its_source(engine: Engine) -> None:
    run = grown(engine)
    history, seen = engine.history("model"), run.fingerprint
    fork = forked(engine, "model", "fork")
    assert fork.surgeon.remove_layer(layer_name="deeper").success
    assert fork.surgeon.modify_layer_width(layer_name="0", new_width=20).success
    train_run(fork, NESTED_MLP)
    assert fork.rollback(2).success
    assert (engine.history("model"), run.fingerprint) == (history, seen)


def test_both_logs_verify_and_replay_in_another_process_like_engine(url: str) -> None:
    with Engine(url) as engine:
        run = grown(engine)
        fork = forked(engine, "model", "fork")
        fork.surgeon.modify_layer_width(layer_name="0", new_width=5)
        train_run(fork, NESTED_MLP)
        fork.capture()
        expected = (run.fingerprint, fork.fingerprint)
        assert tampering(engine) == []
    with Engine(url) as engine:
        replayed = engine.replay("model"), engine.replay("fork")
        assert tuple(fingerprint(module) for module in replayed) == expected
        assert tampering(engine) == []


def test_a_fork_can_be_forked(engine: Engine) -> None:
    grown(engine)
    fork = forked(engine, "model", "fork")
    fork.surgeon.modify_layer_width(layer_name="0", new_width=5)
    train_run(fork, NESTED_MLP)
    fork.capture()
    second = forked(engine, "fork", "second")
    assert second.fingerprint == fork.fingerprint
    assert second.surgeon.modify_layer_width(layer_name="0", new_width=7).success
    assert second.rollback(2).success
    assert second.fingerprint == fork.fingerprint


def test_a_model_that_was_rolled_back_is_forked_as_it_is_now(engine: Engine) -> None:
    run = grown(engine)
    assert run.rollback(2).success
    fork = forked(engine, "model", "fork")
    assert fork.fingerprint == run.fingerprint
    assert len(fork.model) == 4  # type: ignore[arg-type]
    assert registered(engine, "fork").edits == ()


def test_a_version_that_was_given_up_by_a_rollback_can_still_be_forked(engine: Engine) -> None:
    run = grown(engine)
    version, seen = run.version, run.fingerprint
    run.rollback(2)
    assert forked(engine, "model", "fork", version).fingerprint == seen


def test_a_fork_outlives_the_captures_of_its_source(engine: Engine) -> None:
    run = grown(engine, capture=CapturePolicy(keep_last=1))
    seen = run.fingerprint
    engine.fork("model", name="fork")
    for _ in range(3):
        train_run(run, NESTED_MLP)
        run.capture()
    assert fingerprint(engine.replay("fork")) == seen


def test_a_fork_keeps_the_terms_of_its_source(engine: Engine) -> None:
    limits = SurgeryConstraints(max_layers_to_add=3)
    attached(engine, NESTED_MLP, adam, constraints=limits, capture=CapturePolicy(keep_last=4))
    fork = forked(engine, "model", "fork")
    assert (fork.state.constraints, fork.state.capture_policy) == (limits, CapturePolicy(keep_last=4))


def test_a_fork_resumes_in_another_engine(url: str) -> None:
    with Engine(url) as engine:
        grown(engine)
        fork = forked(engine, "model", "fork")
        train_run(fork, NESTED_MLP)
        fork.capture()
        state = fork.state_fingerprint
    with Engine(url) as engine:
        again = attached(engine, NESTED_MLP, adam, name="fork")
        assert again.state_fingerprint == state
        assert not any(isinstance(e.fact, RolledBack) for e in engine.history("fork"))


def test_a_fork_has_the_seeds_of_its_source_at_their_stages(engine: Engine) -> None:
    run = seeded(engine)
    fork = forked(engine, "model", "fork")
    shapes = [
        {s.id: (s.layer, s.stage, s.kernel, s.path, s.alpha, s.schedule) for s in r.state.seeds.values()}
        for r in (run, fork)
    ]
    assert shapes[0] == shapes[1]
    assert shapes[0].keys() == {"dormant", "young", "blended", "culled"}


def test_the_seeds_of_a_fork_live_on_as_those_of_its_source(engine: Engine) -> None:
    runs = seeded(engine), forked(engine, "model", "fork")
    for run in runs:
        assert run.seeds.germinate("dormant", "lora").success
        assert run.seeds.cull("young").success
        for _ in range(5):
            run.epoch_end()
        assert run.seeds["blended"].stage == "HOLDING"
        assert run.seeds["culled"].stage == runs[0].seeds["culled"].stage
        assert run.seeds.fossilize("blended", evidence={"contribution": 0.1}).success
    assert runs[0].architecture.fingerprint == runs[1].architecture.fingerprint


def test_the_audit_tables_know_the_seeds_of_a_fork_and_are_rebuilt_the_same(engine: Engine) -> None:
    seeded(engine)
    fork = forked(engine, "model", "fork")
    fork.seeds.cull("young")
    fork.epoch_end()
    before = audit_rows(engine)
    engine.audit.rebuild([fact for name in engine.names() for fact in engine.history(name)])
    assert audit_rows(engine) == before


def unrestorable(engine: Engine) -> int:
    state = engine.state("model")
    return next(version for version in range(3, state.version) if version not in state.restorable)


REFUSED: dict[str, tuple[Callable[[Engine], Any], type[Exception], str]] = {
    "an unknown source": (lambda e: e.fork("nobody", name="fork"), UsageError, "knows no model 'nobody'"),
    "an unknown version": (lambda e: e.fork("model", name="fork", version=99), UsageError, "no version 99"),
    "version nought": (lambda e: e.fork("model", name="fork", version=0), UsageError, "no version 0"),
    "a version in words": (lambda e: e.fork("model", name="fork", version="2"), UsageError, "no version '2'"),  # type: ignore[arg-type]
    "a name that is taken": (lambda e: e.fork("model", name="model"), ConflictError, "knows a model 'model'"),
    "a name that is none": (lambda e: e.fork("model", name=""), UsageError, "1 to 255 printable characters"),
    "a version trained past": (
        lambda e: e.fork("model", name="fork", version=unrestorable(e)),
        UsageError,
        "has no capture to fork from; the last that have one",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_forked_is_refused_and_leaves_no_trace(what: str, engine: Engine) -> None:
    run = grown(engine)
    before, history = photograph(run), engine.history("model")
    act, error, words = REFUSED[what]
    with pytest.raises(error, match=words):
        act(engine)
    assert (engine.names(), engine.history("model")) == (("model",), history)
    assert differences(before, photograph(run)) == []


def test_a_step_of_a_seeds_life_is_refused_naming_the_capture_before_it(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam)
    run.seeds.plant("seed", "0")
    run.seeds.germinate("seed", "mlp")
    with pytest.raises(UsageError, match=f"fork from a capture instead: version {run.version - 1}"):
        engine.fork("model", name="fork")
