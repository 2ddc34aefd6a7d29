"""Stages of a seed's life: which step is legal from where, and what its gate asks for."""

from __future__ import annotations

from itertools import product

import pytest

from esper_es.domain import seed_commands
from esper_es.domain.alpha import AlphaSchedule
from esper_es.domain.errors import Refused, UsageError
from esper_es.domain.facts import SeedAdvanced
from esper_es.domain.lifecycle import (
    ABSENT,
    ESPER_LITE,
    PERMANENT,
    STRICT_GATES,
    LifecycleProfile,
    Requirement,
    Transition,
    check_gate,
    strict,
)

from .small_model import Log, change, slot

LEGAL = {
    ("DORMANT", "germinate"): "GERMINATED",
    ("GERMINATED", "advance"): "TRAINING",
    ("GERMINATED", "cull"): "PRUNED",
    ("TRAINING", "advance"): "BLENDING",
    ("TRAINING", "cull"): "PRUNED",
    ("BLENDING", "tick"): "HOLDING",
    ("BLENDING", "cull"): "PRUNED",
    ("HOLDING", "blend"): "BLENDING",
    ("HOLDING", "fossilize"): "FOSSILIZED",
    ("HOLDING", "cull"): "PRUNED",
    ("PRUNED", "tick"): "EMBARGOED",
    ("EMBARGOED", "tick"): "RESETTING",
    ("RESETTING", "tick"): "DORMANT",
}
STAGES = [stage.name for stage in ESPER_LITE.stages]
TRIGGERS = ["germinate", "advance", "tick", "blend", "fossilize", "cull"]
PROFILES = {"permissive": ESPER_LITE, "strict": strict()}
ILLEGAL = sorted(set(product(STAGES, TRIGGERS)) - set(LEGAL))
GATE = Transition(
    "advance", "TRAINING", "BLENDING", "G2", min_epochs=10, requires=(Requirement("accuracy_gain", 0.005),)
)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(("stage", "trigger"), LEGAL)
def test_a_legal_step_leads_to_its_stage(profile: str, stage: str, trigger: str) -> None:
    assert PROFILES[profile].step(stage, trigger).target == LEGAL[stage, trigger]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(("stage", "trigger"), ILLEGAL)
def test_an_illegal_step_is_refused_naming_what_is_legal(profile: str, stage: str, trigger: str) -> None:
    legal = sorted(known for at, known in LEGAL if at == stage)
    with pytest.raises(Refused, match=f"in stage {stage} cannot {trigger}.*{', '.join(legal)}") as refusal:
        PROFILES[profile].step(stage, trigger)
    assert refusal.value.check == "lifecycle"


def test_an_unknown_command_is_a_misuse() -> None:
    with pytest.raises(UsageError, match="no command 'explode'"):
        ESPER_LITE.step("DORMANT", "explode")


def test_a_fossil_stays_one() -> None:
    assert [trigger for stage, trigger in LEGAL if stage == "FOSSILIZED"] == []
    assert ESPER_LITE.mode("FOSSILIZED") == PERMANENT


def test_asking_for_a_step_leaves_no_trace_in_the_profile() -> None:
    for stage, trigger in LEGAL:
        first = ESPER_LITE.step(stage, trigger)
        assert ESPER_LITE.step(stage, trigger) is first


class TestGates:
    def test_enough_time_and_evidence_pass(self) -> None:
        check_gate(GATE, 10, {"accuracy_gain": 0.005})

    def test_one_epoch_too_few_is_refused(self) -> None:
        with pytest.raises(Refused, match="9 epochs in TRAINING, 10 are required") as refusal:
            check_gate(GATE, 9, {"accuracy_gain": 1.0})
        assert refusal.value.check == "G2"

    def test_missing_evidence_is_refused(self) -> None:
        with pytest.raises(Refused, match="evidence 'accuracy_gain' is missing"):
            check_gate(GATE, 10, {})

    def test_too_little_evidence_is_refused(self) -> None:
        with pytest.raises(Refused, match=r"accuracy_gain=0\.0049, at least 0\.005"):
            check_gate(GATE, 10, {"accuracy_gain": 0.0049})

    @pytest.mark.parametrize("gate", STRICT_GATES)
    def test_a_strict_profile_asks_for_more_at_each_of_its_gates(self, gate: str) -> None:
        asked = {t.gate: (t.min_epochs, t.requires) for t in strict().transitions}
        assert asked[gate] == STRICT_GATES[gate]

    def test_a_profile_is_data_that_can_ask_for_other_times(self) -> None:
        patient = ESPER_LITE.with_min_epochs(G2=7)
        assert patient.step("TRAINING", "advance").min_epochs == 7

    def test_an_unknown_gate_is_a_misuse(self) -> None:
        with pytest.raises(UsageError, match=r"unknown gates \['G9'\]"):
            ESPER_LITE.with_min_epochs(G9=1)


def at(stage: str, lifecycle: LifecycleProfile = ESPER_LITE) -> Log:
    """A model with a seed ``a`` in this stage."""
    log = Log.of(lifecycle=lifecycle)
    log.grow("a", stage)
    return log


class TestCommands:
    def test_a_seed_too_young_for_its_gate_is_refused(self) -> None:
        with pytest.raises(Refused, match="gate G2: 0 epochs in TRAINING, 1 are required"):
            at("TRAINING").advance("a")

    def test_a_gate_can_be_overridden_and_the_fact_says_why(self) -> None:
        log = at("TRAINING")
        [fact] = seed_commands.advance(log.state, "a", "advance", evidence={}, override="looked at it")
        assert isinstance(fact, SeedAdvanced)
        assert (fact.stage, fact.override) == ("BLENDING", "looked at it")

    def test_an_override_does_not_make_an_illegal_step_legal(self) -> None:
        with pytest.raises(Refused, match="in stage HOLDING cannot advance"):
            seed_commands.advance(at("HOLDING").state, "a", "advance", evidence={}, override="please")

    def test_the_fact_keeps_evidence_and_what_was_asked_for(self) -> None:
        log = at("TRAINING", strict())
        log.epoch(10)
        evidence = {"accuracy_gain": 0.25, "gradient_ratio": 0.5}
        [fact] = seed_commands.advance(log.state, "a", "advance", evidence=evidence)
        assert isinstance(fact, SeedAdvanced)
        assert (fact.gate, fact.evidence, fact.epochs_in_stage) == ("G2", evidence, 10)
        assert fact.thresholds == {"accuracy_gain": 0.005, "gradient_ratio": 0.10}

    def test_evidence_that_is_not_finite_is_a_misuse(self) -> None:
        with pytest.raises(UsageError, match="finite"):
            seed_commands.advance(
                at("GERMINATED").state, "a", "advance", evidence={"accuracy_gain": float("nan")}
            )

    def test_a_seed_without_a_contribution_does_not_become_a_fossil(self) -> None:
        log = at("HOLDING")
        log.epoch()
        with pytest.raises(Refused, match="'contribution' is missing"):
            seed_commands.fossilize(log.state, "a", change(), layer="a", evidence={})

    def test_a_seed_that_harms_does_not_become_a_fossil(self) -> None:
        log = at("HOLDING")
        log.epoch()
        with pytest.raises(Refused, match=r"contribution=-0\.1"):
            log.fossilize("a", -0.1)

    def test_a_seed_that_helps_becomes_a_fossil(self) -> None:
        assert at("FOSSILIZED").state.seeds["a"].stage == "FOSSILIZED"

    @pytest.mark.parametrize(
        ("stage", "trigger"), [("DORMANT", "germinate"), ("HOLDING", "fossilize"), ("TRAINING", "cull")]
    )
    def test_a_step_that_changes_the_structure_cannot_be_taken_by_advancing(
        self, stage: str, trigger: str
    ) -> None:
        with pytest.raises(Refused, match="changes the structure"):
            seed_commands.advance(at(stage).state, "a", trigger, evidence={}, override="please")

    def test_entering_a_stage_of_another_mode_tells_the_slot(self) -> None:
        log = at("BLENDING")
        assert log.state.architecture.nodes["a"].config["mode"] == "blending"

    def test_entering_a_stage_of_the_same_mode_changes_no_module(self) -> None:
        [fact] = seed_commands.advance(at("GERMINATED").state, "a", "advance", evidence={})
        assert isinstance(fact, SeedAdvanced)
        assert fact.edits == ()

    def test_a_schedule_for_a_stage_that_does_not_blend_is_a_misuse(self) -> None:
        with pytest.raises(UsageError, match="TRAINING does not blend"):
            seed_commands.advance(
                at("GERMINATED").state, "a", "advance", evidence={}, schedule=AlphaSchedule()
            )

    def test_a_dormant_seed_is_no_module(self) -> None:
        log = at("DORMANT")
        assert log.state.architecture.slots == ()
        assert log.state.lifecycle.mode("DORMANT") == ABSENT

    def test_a_germinated_seed_is_one(self) -> None:
        assert at("GERMINATED").state.architecture.slots == ("a",)

    def test_an_unknown_seed_is_refused_naming_the_known_ones(self) -> None:
        with pytest.raises(Refused, match="no seed 'b'; planted seeds: a"):
            at("DORMANT").germinate("b")

    def test_a_seeds_name_is_taken_once(self) -> None:
        with pytest.raises(Refused, match="a seed 'a' already"):
            at("DORMANT").plant("a")

    def test_a_seed_is_planted_after_a_layer_that_is_there(self) -> None:
        with pytest.raises(Refused, match="no layer 'nowhere'"):
            seed_commands.plant(Log.of().state, "a", "nowhere")

    def test_a_seeds_name_can_name_a_module(self) -> None:
        with pytest.raises(UsageError, match=r"'a\.b'"):
            Log.of().plant("a.b")

    def test_an_edit_that_does_not_fit_is_refused(self) -> None:
        log = at("DORMANT")
        with pytest.raises(Refused, match="a module at 'first' already") as refusal:
            seed_commands.germinate(
                log.state, "a", change(slot("first")), kernel="mlp", arguments={}, evidence={}
            )
        assert refusal.value.check == "architecture"
