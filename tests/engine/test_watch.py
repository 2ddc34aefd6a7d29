"""Surgeries on trial: watched by a metric, kept, or rolled back by the engine."""

from __future__ import annotations

import pytest
from models import NESTED_MLP
from training import adam, attached, part_of, train_run

from esper_es import CapturePolicy, Engine, Run, SurgeryConstraints, UsageError, WatchPolicy
from esper_es.domain.facts import RolledBack, WatchClosed, WatchOpened

LIMITS = SurgeryConstraints(
    min_epochs_between_surgeries=0, required_validation_score=0.95, rollback_on_performance_drop=0.2
)


def on_trial(engine: Engine, mode: str = "max", baseline: float = 1.0, epochs: int = 2) -> tuple[Run, str]:
    """Return a run with a surgery under watch, and the state from right before the surgery."""
    policy = WatchPolicy(metric="score", mode=mode, epochs=epochs)
    run = attached(engine, NESTED_MLP, adam, watch=policy, constraints=LIMITS)
    train_run(run, NESTED_MLP)
    run.epoch_end({"score": baseline})
    before = run.state_fingerprint
    assert run.surgeon.modify_layer_width(layer_name="0", new_width=12).success
    return run, before


def closings(engine: Engine) -> list[WatchClosed]:
    return [e.fact for e in engine.history("model") if isinstance(e.fact, WatchClosed)]


def test_a_surgery_is_watched_from_the_last_metric_on(engine: Engine) -> None:
    run, _ = on_trial(engine, baseline=0.8)
    fact = engine.history("model")[-1].fact
    assert isinstance(fact, WatchOpened)
    assert (
        fact.subject_version,
        fact.baseline,
        fact.minimum_score,
        fact.required_score,
        fact.until_epoch,
    ) == (
        run.version - 1,
        0.8,
        0.8,
        0.95,
        3,
    )


@pytest.mark.parametrize(("mode", "fallen"), [("max", 0.79), ("min", 1.21)])
def test_a_drop_beyond_the_threshold_rolls_back_at_once(mode: str, fallen: float, engine: Engine) -> None:
    run, before = on_trial(engine, mode)
    train_run(run, NESTED_MLP, 2)
    run.epoch_end({"score": fallen})
    assert run.state_fingerprint == before
    (closing,) = closings(engine)
    assert (closing.outcome, closing.observed) == ("rolled_back", fallen)
    assert "rollback_on_performance_drop" in closing.reason


@pytest.mark.parametrize(("mode", "fallen"), [("max", 0.81), ("min", 1.19)])
def test_a_drop_within_the_threshold_is_borne_until_the_window_ends(
    mode: str, fallen: float, engine: Engine
) -> None:
    run, before = on_trial(engine, mode)
    train_run(run, NESTED_MLP)
    run.epoch_end({"score": fallen})
    assert closings(engine) == []
    run.epoch_end({"score": fallen})
    assert run.state_fingerprint == before
    assert "required_validation_score" in closings(engine)[0].reason


@pytest.mark.parametrize(("mode", "reached"), [("max", 0.96), ("min", 1.04), ("max", 2.0), ("min", 0.1)])
def test_a_surgery_that_reaches_its_score_is_kept(mode: str, reached: float, engine: Engine) -> None:
    run, _ = on_trial(engine, mode)
    for _ in range(2):
        train_run(run, NESTED_MLP)
        run.epoch_end({"score": reached})
    assert [closing.outcome for closing in closings(engine)] == ["kept"]
    assert part_of(run, "0").out_features == 12


def test_after_its_window_a_surgery_is_no_longer_judged(engine: Engine) -> None:
    run, _ = on_trial(engine, epochs=1)
    run.epoch_end({"score": 1.0})
    run.epoch_end({"score": 0.0})
    assert len(closings(engine)) == 1
    assert part_of(run, "0").out_features == 12


def test_the_engine_says_that_it_rolled_back_and_why(engine: Engine) -> None:
    run, _ = on_trial(engine)
    subject = run.version - 1
    run.epoch_end({"score": 0.1})
    rolled = engine.history("model")[-1]
    assert isinstance(rolled.fact, RolledBack)
    assert (rolled.fact.trigger, rolled.cause.actor, rolled.cause.caused_by) == ("watch", "engine", subject)


def test_the_epoch_that_judges_and_its_verdict_are_one_transaction(engine: Engine) -> None:
    run, _ = on_trial(engine)
    before = run.version
    run.epoch_end({"score": 0.1})
    facts = [type(e.fact).__name__ for e in engine.history("model") if e.version > before]
    assert facts == ["EpochEnded", "WatchClosed", "StateCaptured", "RolledBack"]


def test_the_earliest_failing_surgery_takes_later_ones_along(engine: Engine) -> None:
    run, before = on_trial(engine)
    assert run.surgeon.modify_layer_width(layer_name="2.0", new_width=5).success
    run.epoch_end({"score": 0.1})
    assert run.state_fingerprint == before
    assert run.state.lineage.watches == ()


def test_training_goes_on_after_the_engine_rolled_back(engine: Engine) -> None:
    run, _ = on_trial(engine)
    run.epoch_end({"score": 0.1})
    train_run(run, NESTED_MLP, 2)
    run.epoch_end({"score": 1.0})
    assert run.surgeon.modify_layer_width(layer_name="0", new_width=12).success


def test_a_missing_metric_is_named_and_nothing_is_recorded(engine: Engine) -> None:
    run, _ = on_trial(engine)
    version = run.version
    with pytest.raises(UsageError, match="watched by metric 'score', which is missing"):
        run.epoch_end({"loss": 1.0})
    assert (run.version, run.epoch) == (version, 1)


def test_without_a_capture_from_before_it_a_failing_surgery_is_kept_and_said_to_be(engine: Engine) -> None:
    run = attached(
        engine,
        NESTED_MLP,
        adam,
        watch=WatchPolicy(metric="score"),
        capture=CapturePolicy(before_structural_change=False),
    )
    train_run(run, NESTED_MLP)
    run.epoch_end({"score": 1.0})
    run.surgeon.modify_layer_width(layer_name="0", new_width=12)
    run.epoch_end({"score": 0.1})
    assert [closing.outcome for closing in closings(engine)] == ["failed_but_kept"]
    assert part_of(run, "0").out_features == 12


def test_a_surgery_before_any_metric_is_not_watched(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam, watch=WatchPolicy(metric="score"))
    run.surgeon.modify_layer_width(layer_name="0", new_width=12)
    assert run.state.lineage.watches == ()


def test_a_trial_goes_on_after_the_process_was_restarted(url: str) -> None:
    with Engine(url) as engine:
        run, _ = on_trial(engine)
        before = run.version
        run.capture()
    with Engine(url) as engine:
        run = attached(engine, NESTED_MLP, adam)
        run.epoch_end({"score": 0.1})
        assert isinstance(engine.history("model")[-1].fact, RolledBack)
        assert run.version > before
        assert part_of(run, "0").out_features == 8


def test_a_verdict_names_the_seeds_that_were_blending_meanwhile(engine: Engine) -> None:
    policy = WatchPolicy(metric="score", epochs=3)
    run = attached(engine, NESTED_MLP, adam, watch=policy, constraints=LIMITS)
    run.seeds.plant("seed", "1")
    assert run.seeds.germinate("seed", "lora", rank=1).success
    run.seeds.advance("seed")
    run.epoch_end({"score": 1.0})
    assert run.seeds.advance("seed").success
    run.epoch_end({"score": 1.0})
    assert run.surgeon.modify_layer_width(layer_name="0", new_width=12).success
    train_run(run, NESTED_MLP)
    run.epoch_end({"score": 0.1})
    assert closings(engine)[-1].reason.endswith("; meanwhile seeds were blending: seed")


def test_a_verdict_without_seeds_names_none(engine: Engine) -> None:
    run, _ = on_trial(engine)
    run.epoch_end({"score": 0.1})
    assert "meanwhile" not in closings(engine)[-1].reason
