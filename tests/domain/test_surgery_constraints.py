"""Each limit of ``SurgeryConstraints``: what reaches it passes, one beyond is refused by its name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from attrs import evolve

from esper_es.domain.architecture import Architecture, ModuleNode
from esper_es.domain.clock_commands import judge_watches
from esper_es.domain.constraints import CONSTRAINT_NAMES, SurgeryConstraints
from esper_es.domain.errors import Refused, UsageError
from esper_es.domain.policies import WatchPolicy

from .small_model import BASE, MEMORY, UNLIMITED, Log, adding, effects, leaf, parameter


def limited(**limits: Any) -> Log:
    """A model with no limits but these."""
    return Log.of(constraints=evolve(UNLIMITED, **limits))


def of_size(parameters: int) -> Architecture:
    return leaf(ModuleNode("table", tensors={"weight": parameter(parameters)}))


@contextmanager
def refused_by(limit: str) -> Iterator[None]:
    """Expect a refusal whose check is the limit's name and whose message says it."""
    with pytest.raises(Refused, match=limit) as refusal:
        yield
    assert refusal.value.check == limit


def test_the_names_and_defaults_are_the_plans() -> None:
    given = SurgeryConstraints()
    assert {name: getattr(given, name) for name in CONSTRAINT_NAMES} == {
        "max_layers_to_add": 5,
        "max_layers_to_remove": 3,
        "max_width_multiplier": 2.0,
        "min_width_divisor": 2.0,
        "min_epochs_between_surgeries": 10,
        "max_surgeries_per_epoch": 2,
        "max_parameter_increase": 1.5,
        "max_memory_increase_mb": 500,
        "max_skip_connections": 10,
        "max_graph_depth": 100,
        "required_validation_score": 0.9,
        "rollback_on_performance_drop": 0.1,
    }


@pytest.mark.parametrize("name", CONSTRAINT_NAMES)
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "3", True, None])
def test_a_limit_that_makes_no_sense_cannot_be_set(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"SurgeryConstraints.{name} must be"):
        SurgeryConstraints(**{name: value})


def test_as_many_layers_as_allowed_can_be_added_and_not_one_more() -> None:
    log = limited(max_layers_to_add=2)
    log.add_layer()
    log.add_layer()
    with refused_by("max_layers_to_add"):
        log.add_layer()


def test_as_many_layers_as_allowed_can_be_removed_and_not_one_more() -> None:
    log = limited(max_layers_to_remove=1)
    log.remove_layer("act")
    with refused_by("max_layers_to_remove"):
        log.remove_layer("last")


def test_a_layer_can_be_widened_by_the_multiplier() -> None:
    log = limited(max_width_multiplier=2.0)
    log.set_width(16)
    assert log.state.architecture.tensor("first.weight").shape == (16, 4)


def test_a_layer_cannot_be_widened_by_one_unit_more_than_the_multiplier() -> None:
    with refused_by("max_width_multiplier"):
        limited(max_width_multiplier=2.0).set_width(17)


def test_a_layer_can_be_narrowed_by_the_divisor() -> None:
    log = limited(min_width_divisor=2.0)
    log.set_width(4)
    assert log.state.architecture.tensor("last.weight").shape == (2, 4)


def test_a_layer_cannot_be_narrowed_by_one_unit_more_than_the_divisor() -> None:
    with refused_by("min_width_divisor"):
        limited(min_width_divisor=2.0).set_width(3)


def test_a_width_below_one_is_a_misuse() -> None:
    with pytest.raises(UsageError, match="a width is at least 1, got 8 -> 0"):
        Log.of().set_width(0)


def test_after_the_pause_between_surgeries_the_next_is_allowed() -> None:
    log = limited(min_epochs_between_surgeries=3)
    log.add_layer()
    log.epoch(3)
    log.add_layer()
    assert log.state.lineage.layers_added == 2


def test_one_epoch_before_the_end_of_the_pause_a_surgery_is_refused() -> None:
    log = limited(min_epochs_between_surgeries=3)
    log.add_layer()
    log.epoch(2)
    with refused_by("min_epochs_between_surgeries"):
        log.add_layer()


def test_the_first_surgery_needs_no_pause_before_it() -> None:
    log = limited(min_epochs_between_surgeries=3)
    log.add_layer()
    assert log.state.lineage.layers_added == 1


def test_surgeries_of_one_epoch_are_allowed_up_to_their_number() -> None:
    log = limited(max_surgeries_per_epoch=2, min_epochs_between_surgeries=10)
    log.add_layer()
    log.skip()
    with refused_by("max_surgeries_per_epoch"):
        log.set_width(9)


def test_the_next_epoch_counts_surgeries_anew() -> None:
    log = limited(max_surgeries_per_epoch=1)
    log.add_layer()
    log.epoch()
    log.add_layer()
    assert log.state.surgeries_this_epoch == 1


def test_with_no_surgery_an_epoch_allowed_the_first_is_refused() -> None:
    with refused_by("max_surgeries_per_epoch"):
        limited(max_surgeries_per_epoch=0).add_layer()


def test_the_model_can_grow_to_its_share_of_the_parameters_at_birth() -> None:
    log = limited(max_parameter_increase=1.5)
    log.add_layer(of_size(BASE.parameter_count // 2))
    assert log.state.architecture.parameter_count == 1.5 * BASE.parameter_count


def test_the_model_cannot_grow_by_one_parameter_more() -> None:
    with refused_by("max_parameter_increase"):
        limited(max_parameter_increase=1.5).add_layer(of_size(BASE.parameter_count // 2 + 1))


def test_growth_counts_from_birth_not_from_the_last_surgery() -> None:
    log = limited(max_parameter_increase=1.5)
    log.add_layer(of_size(BASE.parameter_count // 2))
    with refused_by("max_parameter_increase"):
        log.add_layer(of_size(1))


def test_a_seed_obeys_the_parameter_limit_too() -> None:
    log = limited(max_parameter_increase=1.5)
    log.plant("a")
    with refused_by("max_parameter_increase"):
        log.germinate("a")


def test_a_change_that_adds_no_parameters_is_allowed_however_large_the_model_is() -> None:
    log = Log.of(
        constraints=evolve(UNLIMITED, max_parameter_increase=1.5), inherited=(adding("big", of_size(1000)),)
    )
    log.set_width(7)
    assert log.state.architecture.parameter_count > 1.5 * BASE.parameter_count


def test_memory_can_grow_by_the_limit() -> None:
    log = limited(max_memory_increase_mb=500)
    log.add_layer(effects=effects(memory_bytes=MEMORY + 500_000_000))
    assert log.state.lineage.memory_bytes == MEMORY + 500_000_000


def test_memory_cannot_grow_by_one_byte_more() -> None:
    with refused_by("max_memory_increase_mb"):
        limited(max_memory_increase_mb=500).add_layer(effects=effects(memory_bytes=MEMORY + 500_000_001))


def test_as_many_skip_connections_as_allowed_can_be_added_and_not_one_more() -> None:
    log = limited(max_skip_connections=2)
    log.skip()
    log.skip()
    with refused_by("max_skip_connections"):
        log.skip()


def test_the_graph_can_be_as_deep_as_the_limit() -> None:
    log = limited(max_graph_depth=7)
    log.add_layer(effects=effects(graph_depth=7))
    assert log.state.lineage.layers_added == 1


def test_the_graph_cannot_be_one_operation_deeper() -> None:
    with refused_by("max_graph_depth"):
        limited(max_graph_depth=7).add_layer(effects=effects(graph_depth=8))


def test_without_constraints_nothing_is_refused() -> None:
    log = Log.of(constraints=None)
    for _ in range(6):
        log.add_layer(of_size(10**6), effects=effects(memory_bytes=10**12, graph_depth=10**4))
    log.set_width(1000)
    assert log.state.surgeries_this_epoch == 7


def test_layers_that_were_rolled_back_do_not_count() -> None:
    log = limited(max_layers_to_add=1)
    before = log.capture()
    log.add_layer()
    log.rollback(before)
    log.add_layer()
    assert log.state.lineage.layers_added == 1


def test_a_rollback_does_not_shorten_the_pause() -> None:
    log = limited(min_epochs_between_surgeries=5)
    before = log.capture()
    log.add_layer()
    log.rollback(before)
    log.epoch()
    with refused_by("min_epochs_between_surgeries"):
        log.add_layer()


class TestWatch:
    """The two limits on the watched metric, over a window of three epochs and a baseline of 0.5."""

    @staticmethod
    def watched(mode: str = "max", *, capture: bool = True, **limits: Any) -> Log:
        log = Log.of(
            constraints=evolve(UNLIMITED, **limits), watch=WatchPolicy(metric="score", mode=mode, epochs=3)
        )
        log.epoch(score=0.5)
        log.add_layer(capture=capture)
        return log

    def test_a_surgery_is_watched_from_its_own_version_on(self) -> None:
        log = self.watched()
        [watch] = log.state.lineage.watches
        assert (watch.subject_version, watch.baseline, watch.until_epoch) == (log.state.version - 1, 0.5, 4)

    def test_without_a_baseline_there_is_nothing_to_judge_by(self) -> None:
        log = Log.of(watch=WatchPolicy(metric="score"))
        log.add_layer()
        assert log.state.lineage.watches == ()

    def test_a_drop_as_large_as_the_limit_is_tolerated(self) -> None:
        log = self.watched(rollback_on_performance_drop=0.25)
        log.epoch(score=0.375)
        assert judge_watches(log.state) == ()

    def test_a_larger_drop_rolls_back_at_once(self) -> None:
        log = self.watched(rollback_on_performance_drop=0.25)
        before = log.state.version - 2
        log.epoch(score=0.3749)
        [verdict] = judge_watches(log.state)
        assert verdict.back_to == before
        assert verdict.closing.outcome == "rolled_back"
        assert verdict.closing.reason.startswith("rollback_on_performance_drop")

    def test_for_a_metric_to_be_minimised_a_rise_is_a_drop(self) -> None:
        log = self.watched("min", rollback_on_performance_drop=0.25)
        log.epoch(score=0.6251)
        [verdict] = judge_watches(log.state)
        assert verdict.closing.reason.startswith("rollback_on_performance_drop")

    def test_the_required_score_at_the_end_of_the_window_keeps_the_surgery(self) -> None:
        log = self.watched(required_validation_score=0.75, rollback_on_performance_drop=1.0)
        log.epoch(2, score=0.1)
        log.epoch(score=0.375)
        [verdict] = judge_watches(log.state)
        assert (verdict.closing.outcome, verdict.back_to) == ("kept", None)

    def test_less_than_the_required_score_at_the_end_of_the_window_rolls_back(self) -> None:
        log = self.watched(required_validation_score=0.75, rollback_on_performance_drop=1.0)
        log.epoch(3, score=0.3749)
        [verdict] = judge_watches(log.state)
        assert verdict.closing.reason.startswith("required_validation_score")
        assert verdict.closing.outcome == "rolled_back"

    def test_before_the_end_of_the_window_the_required_score_asks_nothing(self) -> None:
        log = self.watched(required_validation_score=0.75, rollback_on_performance_drop=1.0)
        log.epoch(2, score=0.1)
        assert judge_watches(log.state) == ()

    def test_with_no_capture_from_before_a_failed_surgery_is_kept_and_says_so(self) -> None:
        log = self.watched(capture=False)
        log.epoch(score=0.1)
        [verdict] = judge_watches(log.state)
        assert (verdict.closing.outcome, verdict.back_to) == ("failed_but_kept", None)

    def test_a_capture_from_after_the_surgery_is_no_way_back(self) -> None:
        log = Log.of(watch=WatchPolicy(metric="score"))
        log.epoch(score=0.5)
        watched = log.add_layer(capture=False)
        assert watched == log.state.version - 1
        log.capture()
        log.epoch(score=0.1)
        [verdict] = judge_watches(log.state)
        assert (verdict.closing.outcome, verdict.back_to) == ("failed_but_kept", None)

    def test_only_the_earliest_failed_surgery_is_rolled_back_for_that_undoes_the_later_ones(self) -> None:
        log = self.watched()
        first = log.state.lineage.watches[0].subject_version
        log.add_layer()
        log.epoch(score=0.1)
        assert [verdict.closing.subject_version for verdict in judge_watches(log.state)] == [first]

    def test_an_epoch_without_the_watched_metric_is_a_misuse(self) -> None:
        with pytest.raises(UsageError, match="'score', which is missing"):
            self.watched().epoch(loss=0.1)
