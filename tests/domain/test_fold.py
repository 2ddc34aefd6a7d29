"""Folding facts: versions, what a rollback takes back, and which versions can be restored exactly."""

from __future__ import annotations

import pytest
from attrs import evolve

from esper_es.domain import clock_commands, seed_commands
from esper_es.domain.envelope import Envelope
from esper_es.domain.errors import LedgerError, Refused, UsageError
from esper_es.domain.facts import (
    CapturesReleased,
    DecisionReceived,
    DecisionSettled,
    EpochEnded,
    RunResumed,
    SeedAdvanced,
    SeedGerminated,
    SurgeryRefused,
    TrainingContinued,
)
from esper_es.domain.fold import fold
from esper_es.domain.model import restorable
from esper_es.domain.policies import CapturePolicy, WatchPolicy
from esper_es.domain.state import Lineage

from .sample_facts import DECISION
from .small_model import BASE, ENVIRONMENT, Log, captured, effects

REFUSED = SurgeryRefused(operation="add_layer", target="first", arguments={}, check="c", reason="r")


def unmoved(lineage: Lineage) -> Lineage:
    """A lineage without the moments that move along with the clock."""
    return evolve(
        lineage,
        seeds={n: evolve(s, entered_epoch=0, ramp_epoch=0) for n, s in lineage.seeds.items()},
        watches=tuple(evolve(watch, until_epoch=0) for watch in lineage.watches),
    )


class TestVersions:
    def test_the_first_fact_registers_the_model(self) -> None:
        log = Log.of()
        assert (log.state.version, log.state.name, log.state.architecture) == (1, "digits", BASE)

    def test_each_fact_adds_one(self) -> None:
        log = Log.of()
        log.capture()
        assert log.capture() == 3

    def test_no_facts_are_no_model(self) -> None:
        assert fold(None, []) is None

    def test_a_gap_is_an_error(self) -> None:
        log = Log.of()
        log.capture()
        log.capture()
        with pytest.raises(LedgerError, match="version 3 where version 2 belongs"):
            fold(None, [log.envelopes[0], log.envelopes[2]])

    def test_a_log_begins_with_the_registration(self) -> None:
        log = Log.of()
        log.capture()
        with pytest.raises(LedgerError, match="begins with StateCaptured"):
            fold(None, [evolve(log.envelopes[1], originator_version=1)])

    def test_a_model_is_registered_once(self) -> None:
        log = Log.of()
        with pytest.raises(LedgerError, match="registers model 'digits' a second time"):
            fold(log.state, [evolve(log.envelopes[0], originator_version=2)])

    @pytest.mark.parametrize(
        "fact",
        [
            SeedAdvanced(seed="nobody", from_stage="TRAINING", stage="BLENDING"),
            SeedGerminated(
                seed="a",
                kernel="mlp",
                arguments={},
                stage="GERMINATED",
                gate="G0",
                edits=(),
                effects=effects(),
                base_capture=None,
            ),
        ],
        ids=["unknown seed", "no module"],
    )
    def test_a_fact_that_does_not_fit_those_before_it_is_an_error(
        self, fact: SeedAdvanced | SeedGerminated
    ) -> None:
        log = Log.of()
        log.plant("a")
        with pytest.raises(LedgerError, match=r"version 3 of model 'digits' \(Seed.* does not fit"):
            log.record(fact)


class TestRollback:
    def test_the_structure_comes_back(self) -> None:
        log = Log.of()
        before = log.capture()
        log.set_width(12)
        log.add_layer()
        log.rollback(before)
        assert log.state.architecture == BASE

    def test_counters_of_the_lineage_come_back(self) -> None:
        log = Log.of()
        log.epoch(score=0.5)
        before = log.capture()
        kept = log.state.lineage
        log.add_layer()
        log.epoch(2, score=0.1)
        log.rollback(before)
        assert log.state.lineage == kept
        assert (kept.trained_epochs, kept.trained_steps, kept.metrics) == (1, 10, {"score": 0.5})

    def test_the_clock_of_the_log_never_runs_backwards(self) -> None:
        log = Log.of()
        before = log.capture()
        log.add_layer()
        log.epoch(2)
        log.rollback(before)
        assert (log.state.epoch, log.state.step) == (2, 20)

    def test_the_count_of_surgeries_per_epoch_stays(self) -> None:
        log = Log.of()
        before = log.capture()
        log.add_layer()
        log.rollback(before)
        assert (log.state.last_surgery_epoch, log.state.surgeries_this_epoch) == (0, 1)

    def test_training_after_a_rollback_counts_on_from_the_state_restored(self) -> None:
        log = Log.of()
        log.epoch()
        before = log.capture()
        log.epoch(3)
        log.rollback(before)
        log.epoch()
        assert (log.state.lineage.trained_epochs, log.state.lineage.trained_steps) == (2, 20)
        assert (log.state.epoch, log.state.step) == (5, 50)

    def test_a_surgery_can_be_the_target(self) -> None:
        log = Log.of()
        surgery = log.add_layer()
        grown = log.state.lineage
        log.train()
        log.set_width(12)
        log.rollback(surgery)
        assert log.state.lineage == grown

    def test_a_rollback_can_be_rolled_back(self) -> None:
        log = Log.of()
        log.grow("a", "BLENDING")
        before = log.capture()
        log.add_layer()
        log.epoch(2)
        left = log.state.lineage
        log.rollback(before)
        log.rollback(log.state.version - 1)
        assert unmoved(log.state.lineage) == unmoved(left)

    def test_a_rollback_can_be_the_target(self) -> None:
        log = Log.of()
        before = log.capture()
        log.add_layer()
        back = log.rollback(before)
        log.train()
        log.skip()
        log.rollback(back)
        assert log.state.architecture == BASE

    def test_a_seed_comes_back_to_its_stage_with_its_age(self) -> None:
        log = Log.of()
        log.grow("a", "TRAINING")
        log.epoch(2)
        before = log.capture()
        log.cull("a")
        log.epoch(3)
        log.rollback(before)
        seed = log.state.seeds["a"]
        assert (seed.stage, log.state.epoch - seed.entered_epoch) == ("TRAINING", 2)

    def test_a_seed_has_the_same_age_when_a_rollback_is_the_target(self) -> None:
        log = Log.of()
        log.grow("a", "TRAINING")
        log.epoch(2)
        before = log.capture()
        log.epoch(3)
        back = log.rollback(before)
        log.epoch(4)
        log.rollback(back)
        assert log.state.epoch - log.state.seeds["a"].entered_epoch == 2

    def test_a_ramp_goes_on_where_it_was(self) -> None:
        log = Log.of()
        log.grow("a", "BLENDING")
        log.epoch(2)
        before = log.capture()
        log.epoch(2)
        log.rollback(before)
        alphas = [log.state.seeds["a"].alpha]
        log.epoch()
        alphas.append(log.state.seeds["a"].alpha)
        assert alphas == [0.4, pytest.approx(0.6)]

    def test_an_embargo_lasts_as_long_as_it_would_have(self) -> None:
        log = Log.of()
        log.grow("a", "TRAINING")
        log.cull("a")
        log.epoch(3)
        before = log.capture()
        log.epoch(4)
        assert log.state.seeds["a"].stage == "DORMANT"
        log.rollback(before)
        log.epoch(2)
        assert log.state.seeds["a"].stage == "EMBARGOED"
        log.epoch()
        assert log.state.seeds["a"].stage == "RESETTING"

    def test_an_open_watch_keeps_the_rest_of_its_window(self) -> None:
        log = Log.of(watch=WatchPolicy(metric="score", epochs=3))
        log.epoch(score=0.5)
        log.add_layer()
        log.epoch(score=0.5)
        before = log.capture()
        log.epoch(score=0.5)
        log.rollback(before)
        [watch] = log.state.lineage.watches
        assert watch.until_epoch - log.state.epoch == 2


class TestRestorable:
    def test_a_capture_is_restorable_and_so_is_the_version_whose_state_it_holds(self) -> None:
        log = Log.of()
        log.record(REFUSED)
        capture = log.capture()
        assert {v: r.capture for v, r in log.state.restorable.items()} == {2: capture, 3: capture}

    def test_a_capture_does_not_replace_a_way_back_that_was_known(self) -> None:
        log = Log.of()
        surgery = log.add_layer()
        log.capture()
        assert log.state.restorable[surgery].capture == surgery - 1

    def test_a_surgery_after_a_capture_is_that_capture_and_its_own_edits(self) -> None:
        log = Log.of()
        surgery = log.add_layer()
        source = log.state.restorable[surgery]
        assert (source.capture, source.edits_of) == (surgery - 1, (surgery,))

    @pytest.mark.parametrize("stage", ["GERMINATED", "FOSSILIZED"])
    def test_a_seeds_structural_step_is_restorable_too(self, stage: str) -> None:
        log = Log.of()
        log.grow("a", stage)
        assert log.state.restorable[log.state.version].edits_of == (log.state.version,)

    def test_a_culling_is_restorable_too(self) -> None:
        log = Log.of()
        log.grow("a", "TRAINING")
        log.cull("a")
        assert log.state.restorable[log.state.version].edits_of == (log.state.version,)

    def test_a_surgery_without_a_capture_is_not_restorable(self) -> None:
        log = Log.of()
        surgery = log.add_layer(capture=False)
        with pytest.raises(Refused, match=f"version {surgery} has no capture") as refusal:
            restorable(log.state, surgery)
        assert refusal.value.check == "no_capture"

    def test_the_nearest_versions_that_can_be_restored_are_named(self) -> None:
        log = Log.of()
        log.capture()
        log.epoch()
        log.record(REFUSED)
        log.epoch()
        log.capture()
        with pytest.raises(Refused, match="nearest versions that have one: 2 and 6"):
            restorable(log.state, 4)

    @pytest.mark.parametrize("version", [0, -1, 99, True, 1.0])
    def test_a_version_that_never_was_is_refused(self, version: int) -> None:
        log = Log.of()
        log.capture()
        with pytest.raises(Refused, match="the log has 1 to 2") as refusal:
            restorable(log.state, version)
        assert refusal.value.check == "unknown_version"

    def test_a_watch_opened_with_a_surgery_shares_its_way_back(self) -> None:
        log = Log.of(watch=WatchPolicy(metric="score"))
        log.epoch(score=0.5)
        surgery = log.add_layer()
        shared = log.state.restorable[surgery + 1]
        assert (shared.capture, shared.edits_of) == (surgery - 1, (surgery,))
        assert len(shared.lineage.watches) == 1

    def test_a_settled_decision_shares_the_way_back_of_its_surgery(self) -> None:
        log = Log.of()
        surgery = log.add_layer()
        settled = log.record(DecisionSettled(decision_id="d", outcome="applied"))
        assert log.state.restorable[settled].capture == surgery - 1

    def test_facts_that_move_no_byte_keep_the_way_back(self) -> None:
        log = Log.of()
        capture = log.capture()
        log.record(DecisionReceived(decision=DECISION), REFUSED)
        log.record(DecisionSettled(decision_id="d-17", outcome="refused"))
        log.record(*seed_commands.plant(log.state, "s", "first"))
        log.record(clock_commands.end_epoch(log.state, {}, log.step))
        versions = range(capture, log.state.version + 1)
        assert {log.state.restorable[v].capture for v in versions} == {capture}
        assert log.state.restorable[log.state.version].lineage == log.state.lineage

    def test_a_resumed_run_is_in_the_state_of_the_version_before(self) -> None:
        log = Log.of()
        capture = log.capture()
        resumed = log.record(RunResumed(environment=evolve(ENVIRONMENT, device="cuda")))
        assert log.state.restorable[resumed].capture == capture
        assert log.state.environment.device == "cuda"

    def test_an_epoch_of_training_is_not_restorable(self) -> None:
        log = Log.of()
        log.capture()
        log.epoch()
        assert log.state.version not in log.state.restorable

    def test_released_captures_take_their_versions_along(self) -> None:
        log = Log.of()
        first = log.capture()
        surgery = log.add_layer()
        assert {first, surgery - 1, surgery} <= set(log.state.restorable)
        log.record(CapturesReleased(versions=(surgery - 1,)))
        assert {surgery - 1, surgery} & set(log.state.restorable) == set()
        assert set(log.state.captures) == {first}

    def test_a_refusal_changes_nothing_but_the_version(self) -> None:
        log = Log.of()
        log.capture()
        before = log.state
        log.record(REFUSED)
        after = log.state
        assert after.lineage == before.lineage
        assert (after.epoch, after.step, after.captures) == (before.epoch, before.step, before.captures)

    def test_edits_without_a_capture_of_their_own_add_to_the_way_back(self) -> None:
        log = Log.of(capture=CapturePolicy(before_structural_change=False))
        capture = log.capture()
        first, second = log.add_layer(capture=False), log.add_layer(capture=False)
        assert (log.state.restorable[second].capture, log.state.restorable[second].edits_of) == (
            capture,
            (first, second),
        )

    def test_edits_after_training_without_a_capture_have_no_way_back(self) -> None:
        log = Log.of(capture=CapturePolicy(before_structural_change=False))
        log.capture()
        log.train()
        assert log.add_layer(capture=False) not in log.state.restorable

    def test_a_version_captured_twice_survives_the_release_of_the_older_capture(self) -> None:
        log = Log.of()
        older = log.capture()
        refused = log.record(REFUSED)
        newer = log.capture()
        log.record(CapturesReleased(versions=(older,)))
        assert log.state.restorable[refused].capture == newer

    def test_steps_that_no_fact_told_of_end_the_way_back(self) -> None:
        log = Log.of()
        log.capture()
        log.step += 1
        log.record(REFUSED)
        assert (log.state.standing, log.state.version in log.state.restorable) == (None, False)


class TestMovedWithoutAStep:
    @pytest.mark.parametrize("moved", [("module",), ("optimizer", "generators"), ("scheduler",), ("scaler",)])
    def test_what_was_learned_has_moved_on_for_good(self, moved: tuple[str, ...]) -> None:
        log = Log.of()
        log.capture()
        log.record(*clock_commands.found_moved(log.state, log.step, moved))
        assert (log.state.standing, log.state.version in log.state.restorable) == (None, False)

    @pytest.mark.parametrize("moved", [("modes",), ("generators",), ("modes", "generators")])
    def test_generators_and_flags_aside_the_run_still_stands_on_its_capture(
        self, moved: tuple[str, ...]
    ) -> None:
        log = Log.of()
        capture = log.capture()
        log.record(*clock_commands.found_moved(log.state, log.step, moved))
        planted = log.record(*seed_commands.plant(log.state, "s", "first"))
        assert log.state.standing is not None
        assert (log.state.standing.capture, log.state.standing.lineage) == (capture, log.state.lineage)
        assert planted not in log.state.restorable

    def test_a_run_resumed_there_is_what_its_capture_is(self) -> None:
        log = Log.of()
        log.capture()
        log.record(*clock_commands.found_moved(log.state, log.step, ("generators",)))
        assert log.record(RunResumed(environment=ENVIRONMENT)) in log.state.restorable

    def test_it_is_said_once(self) -> None:
        log = Log.of()
        log.capture()
        log.record(*clock_commands.found_moved(log.state, log.step, ("generators",)))
        assert clock_commands.found_moved(log.state, log.step, ("modes",)) == ()
        log.record(*clock_commands.found_moved(log.state, log.step, ("module",)))
        assert clock_commands.found_moved(log.state, log.step, ("module",)) == ()

    def test_a_step_that_could_not_be_recorded_in_time_is_told_as_a_step(self) -> None:
        log = Log.of()
        log.capture()
        assert clock_commands.found_moved(log.state, 3, ("module",)) == (TrainingContinued(step=3),)


class TestContinuedTraining:
    def test_the_first_step_after_an_exact_version_is_a_fact(self) -> None:
        log = Log.of()
        log.capture()
        assert clock_commands.continue_training(log.state, 7) == (TrainingContinued(step=7),)

    def test_the_steps_after_it_are_none(self) -> None:
        log = Log.of()
        log.capture()
        log.train()
        assert clock_commands.continue_training(log.state, 17) == ()

    def test_a_version_that_is_not_exact_needs_none(self) -> None:
        log = Log.of()
        log.epoch()
        assert clock_commands.continue_training(log.state, 17) == ()


class TestRetention:
    @staticmethod
    def keeping(count: int | None, watch: WatchPolicy | None = None) -> Log:
        return Log.of(capture=CapturePolicy(keep_last=count), watch=watch)

    def test_without_a_number_every_capture_is_kept(self) -> None:
        log = self.keeping(None)
        for _ in range(5):
            log.capture()
        assert clock_commands.release_captures(log.state) == ()

    def test_the_last_ones_and_the_one_at_birth_are_kept(self) -> None:
        log = self.keeping(2)
        versions = [log.capture() for _ in range(5)]
        assert clock_commands.release_captures(log.state) == (
            CapturesReleased(versions=tuple(versions[1:3])),
        )

    def test_up_to_the_number_nothing_is_released(self) -> None:
        log = self.keeping(2)
        for _ in range(3):
            log.capture()
        assert clock_commands.release_captures(log.state) == ()

    def test_the_way_back_of_a_watched_surgery_is_kept(self) -> None:
        log = self.keeping(1, WatchPolicy(metric="score"))
        log.capture("birth")
        log.epoch(score=0.5)
        needed = log.add_layer() - 1
        later = [log.capture() for _ in range(3)]
        assert clock_commands.release_captures(log.state) == (CapturesReleased(versions=tuple(later[:2])),)
        assert needed not in later


class TestEpochs:
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), "0.9", None, True])
    def test_a_metric_that_is_no_finite_number_is_a_misuse(self, value: float) -> None:
        with pytest.raises(UsageError, match=r"metrics\['acc'\].*; nothing was recorded"):
            clock_commands.end_epoch(Log.of().state, {"acc": value}, 10)

    def test_an_epoch_is_numbered_by_the_log(self) -> None:
        log = Log.of()
        log.epoch(2)
        assert clock_commands.end_epoch(log.state, {}, 30) == EpochEnded(epoch=3, step=30)

    def test_facts_after_the_end_of_an_epoch_belong_to_the_next(self) -> None:
        log = Log.of()
        log.record(EpochEnded(epoch=1, step=0), captured())
        epochs = [envelope.epoch for envelope in log.envelopes]
        assert epochs == [0, 1, 1]

    def test_an_envelope_knows_its_version(self) -> None:
        [envelope] = Log.of().envelopes
        assert isinstance(envelope, Envelope)
        assert envelope.version == envelope.originator_version == 1
