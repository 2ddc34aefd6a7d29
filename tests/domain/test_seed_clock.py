"""What the clock alone does to seeds: alpha moves, holds begin, embargoes end."""

from __future__ import annotations

import pytest

from esper_es.domain import seed_commands
from esper_es.domain.alpha import AlphaSchedule
from esper_es.domain.clock_commands import tick_seeds
from esper_es.domain.edits import SetScalar
from esper_es.domain.errors import Refused, UsageError
from esper_es.domain.facts import AlphaChanged, SeedAdvanced
from esper_es.domain.lifecycle import ESPER_LITE, LifecycleProfile
from esper_es.domain.state import Seed

from .small_model import Log, facts_of


def at(stage: str, lifecycle: LifecycleProfile = ESPER_LITE) -> Log:
    log = Log.of(lifecycle=lifecycle)
    log.grow("a", stage)
    return log


def seed(log: Log) -> Seed:
    return log.state.seeds["a"]


def blending(schedule: AlphaSchedule) -> Log:
    log = at("TRAINING")
    log.record(
        *seed_commands.advance(log.state, "a", "advance", evidence={}, override="x", schedule=schedule)
    )
    return log


def test_alpha_climbs_its_ramp_epoch_by_epoch() -> None:
    log = blending(AlphaSchedule(epochs=4))
    climbed = []
    for _ in range(4):
        log.epoch()
        climbed.append(seed(log).alpha)
    assert climbed == [0.25, 0.5, 0.75, 1.0]


def test_the_slots_own_buffer_follows_alpha() -> None:
    log = blending(AlphaSchedule(epochs=4))
    log.epoch()
    [changed] = [fact for fact in facts_of(log) if isinstance(fact, AlphaChanged)]
    assert changed.edits == (SetScalar("a.alpha", 0.25),)


def test_a_seed_holds_as_soon_as_alpha_is_at_its_target() -> None:
    log = blending(AlphaSchedule(target=0.5, epochs=2))
    log.epoch()
    assert seed(log).stage == "BLENDING"
    log.epoch()
    assert (seed(log).stage, seed(log).alpha) == ("HOLDING", 0.5)


def test_a_hold_that_asks_for_time_begins_later_with_alpha_at_its_target() -> None:
    log = Log.of(lifecycle=ESPER_LITE.with_min_epochs(G3=4))
    log.plant("a")
    log.germinate("a")
    log.advance("a")
    log.epoch()
    log.record(
        *seed_commands.advance(log.state, "a", "advance", evidence={}, schedule=AlphaSchedule(epochs=2))
    )
    log.epoch(3)
    assert (seed(log).stage, seed(log).alpha) == ("BLENDING", 1.0)
    log.epoch()
    assert seed(log).stage == "HOLDING"


def test_the_hold_is_recorded_with_its_evidence() -> None:
    log = at("HOLDING")
    held = [f for f in facts_of(log) if isinstance(f, SeedAdvanced) and f.stage == "HOLDING"]
    assert [(fact.gate, fact.evidence, fact.thresholds) for fact in held] == [
        ("G3", {"alpha_progress": 1.0}, {"alpha_progress": 1.0})
    ]


def test_alpha_that_does_not_move_is_no_fact() -> None:
    log = blending(AlphaSchedule(start=0.0, target=0.0, epochs=3))
    log.epoch(2)
    assert [fact for fact in facts_of(log) if isinstance(fact, AlphaChanged)] == []


def test_a_ramp_starts_from_the_alpha_that_the_seed_has() -> None:
    log = at("HOLDING")
    log.record(
        *seed_commands.advance(
            log.state, "a", "blend", evidence={}, schedule=AlphaSchedule(start=0.0, target=0.5, epochs=5)
        )
    )
    log.epoch()
    assert seed(log).alpha == pytest.approx(0.9)


def test_alpha_set_by_hand_stays_where_it_was_set() -> None:
    log = blending(AlphaSchedule(epochs=10))
    log.epoch()
    log.record(*seed_commands.set_alpha(log.state, "a", 0.75))
    log.epoch()
    assert seed(log).alpha == 0.75


def test_alpha_set_by_hand_counts_as_at_its_target_so_the_seed_holds() -> None:
    log = blending(AlphaSchedule(epochs=10))
    log.record(*seed_commands.set_alpha(log.state, "a", 0.75))
    log.epoch()
    assert seed(log).stage == "HOLDING"


def test_alpha_is_not_set_by_hand_while_the_seed_does_not_blend() -> None:
    with pytest.raises(Refused, match="alpha moves only while it blends"):
        seed_commands.set_alpha(at("TRAINING").state, "a", 0.5)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan"), True])
def test_an_alpha_outside_the_unit_interval_is_a_misuse(alpha: float) -> None:
    with pytest.raises(UsageError, match=r"in \[0, 1\]"):
        seed_commands.set_alpha(at("BLENDING").state, "a", alpha)


@pytest.mark.parametrize("stage", ["DORMANT", "GERMINATED", "TRAINING", "FOSSILIZED"])
def test_the_clock_alone_does_not_move_a_seed_on(stage: str) -> None:
    log = at(stage)
    log.epoch(20)
    assert seed(log).stage == stage


def test_a_culled_seed_comes_back_to_dormancy_after_its_embargo() -> None:
    log = at("TRAINING")
    log.cull("a")
    stages = [seed(log).stage]
    for _ in range(7):
        log.epoch()
        stages.append(seed(log).stage)
    assert stages == ["PRUNED", *["EMBARGOED"] * 5, "RESETTING", "DORMANT"]


def test_a_culled_seed_keeps_its_record_and_loses_its_module() -> None:
    log = at("BLENDING")
    log.epoch()
    log.cull("a")
    culled = seed(log)
    assert (culled.kernel, culled.path, culled.alpha, culled.schedule) == ("mlp", None, 0.0, None)
    assert "a" not in log.state.architecture


def test_an_embargoed_seed_cannot_germinate() -> None:
    log = at("TRAINING")
    log.cull("a")
    log.epoch()
    with pytest.raises(Refused, match="in stage EMBARGOED cannot germinate"):
        log.germinate("a")


def test_a_seed_that_is_dormant_again_has_forgotten_its_kernel_and_can_germinate() -> None:
    log = at("TRAINING")
    log.cull("a")
    log.epoch(7)
    assert (seed(log).kernel, seed(log).arguments) == (None, {})
    log.germinate("a")
    assert seed(log).stage == "GERMINATED"


def test_each_seed_lives_by_its_own_clock() -> None:
    log = at("BLENDING")
    log.epoch(2)
    log.plant("b")
    log.germinate("b")
    log.advance("b")
    log.epoch()
    log.advance("b")
    log.epoch(2)
    assert {name: (s.stage, s.alpha) for name, s in log.state.seeds.items()} == {
        "a": ("HOLDING", 1.0),
        "b": ("BLENDING", 0.4),
    }


def test_with_no_seeds_the_clock_does_nothing() -> None:
    assert tick_seeds(Log.of().state) == ()
