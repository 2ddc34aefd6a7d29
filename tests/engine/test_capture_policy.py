"""Which captures are taken and which are kept."""

from __future__ import annotations

from models import NESTED_MLP
from training import adam, attached, train_run

from esper_es import CapturePolicy, Engine, Run, WatchPolicy, fingerprint
from esper_es.domain.facts import CapturesReleased, StateCaptured


def captures(engine: Engine) -> list[str]:
    return [e.fact.reason for e in engine.history("model") if isinstance(e.fact, StateCaptured)]


def trained_epochs(run: Run, epochs: int) -> None:
    for _ in range(epochs):
        train_run(run, NESTED_MLP)
        run.epoch_end({"score": 1.0})


def test_the_birth_of_a_model_is_captured(engine: Engine) -> None:
    attached(engine, NESTED_MLP, adam)
    assert captures(engine) == ["birth"]


def test_every_nth_epoch_is_captured_when_asked_for(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam, capture=CapturePolicy(every_n_epochs=2))
    trained_epochs(run, 5)
    assert captures(engine) == ["birth", "every 2 epochs", "every 2 epochs"]


def test_an_epoch_that_was_captured_can_be_restored(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam, capture=CapturePolicy(every_n_epochs=1))
    trained_epochs(run, 1)
    version, state = run.version, run.state_fingerprint
    trained_epochs(run, 2)
    assert run.rollback(version).success
    assert run.state_fingerprint == state


def test_only_the_last_captures_are_kept_besides_birth(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam, capture=CapturePolicy(keep_last=2))
    versions = []
    for _ in range(4):
        train_run(run, NESTED_MLP)
        versions.append(run.capture())
    assert sorted(run.state.captures) == [2, *versions[-2:]]


def test_giving_captures_up_is_a_fact(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam, capture=CapturePolicy(keep_last=1))
    first = run.capture()
    run.capture()
    released = [e.fact for e in engine.history("model") if isinstance(e.fact, CapturesReleased)]
    assert released == [CapturesReleased(versions=(first,))]


def test_a_version_whose_capture_was_given_up_is_refused(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam, capture=CapturePolicy(keep_last=1))
    first = run.capture()
    train_run(run, NESTED_MLP)
    run.capture()
    assert run.rollback(first).check == "no_capture"


def test_a_capture_that_an_open_trial_needs_is_kept(engine: Engine) -> None:
    policy = CapturePolicy(keep_last=1)
    watch = WatchPolicy(metric="score", epochs=5)
    run = attached(engine, NESTED_MLP, adam, capture=policy, watch=watch)
    trained_epochs(run, 1)
    before = run.state_fingerprint
    run.surgeon.modify_layer_width(layer_name="0", new_width=12)
    for _ in range(3):
        train_run(run, NESTED_MLP)
        run.capture()
    run.epoch_end({"score": 0.0})
    assert run.state_fingerprint == before


def test_with_no_captures_asked_for_surgeries_take_none(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam, capture=CapturePolicy(before_structural_change=False))
    run.surgeon.modify_layer_width(layer_name="0", new_width=12)
    assert captures(engine) == ["birth"]


def test_the_new_tensors_of_a_surgery_are_stored_even_without_captures(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, capture=CapturePolicy(before_structural_change=False))
    run.surgeon.modify_layer_width(layer_name="0", new_width=12)
    replayed = engine.replay("model")
    assert replayed.esper_replay.capture == 2  # type: ignore[union-attr]
    assert fingerprint(replayed) == run.fingerprint


def test_the_capture_on_which_the_head_rests_is_never_given_up(url: str) -> None:
    with Engine(url) as engine:
        run = attached(engine, NESTED_MLP, adam, capture=CapturePolicy(keep_last=1))
        train_run(run, NESTED_MLP)
        version, wanted = run.capture(), run.state_fingerprint
        train_run(run, NESTED_MLP)
        run.rollback(version)
    with Engine(url) as engine:
        assert attached(engine, NESTED_MLP, adam).state_fingerprint == wanted
