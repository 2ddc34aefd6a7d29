"""A history as it happens in practice, told into a real log; tests name its versions, never count them."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import define, evolve, field
from sqlalchemy import Engine

from esper_es.domain import clock_commands, seed_commands, surgery_commands
from esper_es.domain.architecture import Architecture
from esper_es.domain.constraints import SurgeryConstraints
from esper_es.domain.decisions import AdaptationDecision
from esper_es.domain.edits import (
    AddModule,
    Initial,
    RemoveModule,
    ResizeTensor,
    SetAttribute,
)
from esper_es.domain.envelope import Cause, Envelope, model_id
from esper_es.domain.errors import Refused
from esper_es.domain.facts import (
    DecisionReceived,
    DecisionSettled,
    Effects,
    Fact,
    RolledBack,
    RunResumed,
    SurgeryRefused,
)
from esper_es.domain.index_map import IndexMap
from esper_es.domain.model import Moment, enveloped, folded, recorded, restorable
from esper_es.domain.policies import WatchPolicy
from esper_es.domain.state import ModelState
from esper_es.domain.surgery_commands import Change
from esper_es.ledger.log import Log
from esper_es.projections.audit import project

from .digits import ENVIRONMENT, captured, linear, registration, slot

TAMIYO = Cause(actor="tamiyo", reasoning="plateau", decision_id="d-1", confidence=0.75)
ADA = Cause(actor="ada", reasoning="by hand")
ENGINE = Cause(actor="engine", reasoning="the clock")
CONSTRAINTS = SurgeryConstraints(
    max_layers_to_add=1, min_epochs_between_surgeries=0, max_parameter_increase=10
)
DECISION = AdaptationDecision(
    decision_id="d-1",
    layer_name="first",
    adaptation_type="add_neurons",
    confidence=0.75,
    parameters={"new_width": 12},
    reasoning="plateau",
    actor="tamiyo",
)


@define
class Teller:
    """Records facts of one model in a log, a minute after the other, and remembers versions by name."""

    log: Log
    state: ModelState
    step: int = 0
    minute: int = 0
    versions: dict[str, int] = field(factory=dict)

    @classmethod
    def registering(cls, engine: Engine, name: str) -> Teller:
        log = Log(engine, [project])
        birth = registration(name, constraints=CONSTRAINTS, watch=WatchPolicy(metric="val_acc", epochs=2))
        moment = Moment(at=at_minute(0), epoch=0, step=0)
        envelopes = enveloped(model_id(name), 0, [birth], ADA, moment)
        log.append(envelopes)
        return cls(log, folded(None, envelopes))

    def record(self, cause: Cause, *facts: Fact) -> int:
        """Append facts and return the version of the last one."""
        self.minute += 1
        moment = Moment(at=at_minute(self.minute), epoch=self.state.epoch, step=self.step)
        after, envelopes = recorded(self.state, facts, cause, moment)
        self.log.append(envelopes)
        self.state = after
        return self.state.version

    def epoch(self, **metrics: float) -> None:
        self.step += 10
        self.record(ENGINE, *clock_commands.continue_training(self.state, self.step))
        ended = clock_commands.end_epoch(self.state, metrics, self.step)
        after, _ = recorded(self.state, [ended], ENGINE, Moment(at="", epoch=0, step=self.step))
        verdicts = [verdict.closing for verdict in clock_commands.judge_watches(after)]
        after, _ = recorded(self.state, [ended, *verdicts], ENGINE, Moment(at="", epoch=0, step=self.step))
        self.record(ENGINE, ended, *verdicts, *clock_commands.tick_seeds(after))

    def roll_back(self, to_version: int, *, fingerprint: str, expected: str | None, trigger: str) -> int:
        source = restorable(self.state, to_version)
        fact = RolledBack(
            to_version=to_version,
            capture_version=source.capture,
            from_version=self.state.version,
            base_capture=None,
            fingerprint=fingerprint,
            model_fingerprint="sha256:model",
            expected_fingerprint=expected,
            epochs_discarded=self.state.lineage.trained_epochs - source.lineage.trained_epochs,
            steps_discarded=self.state.lineage.trained_steps - source.lineage.trained_steps,
            trigger=trigger,
            reason=f"{trigger} for it",
        )
        return self.record(ADA, fact)


def at_minute(minute: int) -> str:
    return f"2026-11-23T10:{minute:02}:00.000000+00:00"


def change(*edits: object, manifest: str, **effects: object) -> Change:
    """A change that follows a capture."""
    return Change(edits=edits, effects=Effects(**effects), capture=captured("before it", manifest=manifest))  # type: ignore[arg-type]


def tell(engine: Engine, name: str = "digits") -> Teller:
    """Tell the story: a model is widened on trial, grows two seeds, and goes back twice."""
    teller = Teller.registering(engine, name)
    named = teller.versions
    named["birth capture"] = teller.record(ADA, captured("birth", 1, manifest="blake3:birth"))
    teller.epoch(val_acc=0.5)
    _widen_by_decision(teller)
    teller.epoch(val_acc=0.5)
    teller.epoch(val_acc=0.75)
    named["kept"] = teller.state.version
    _grow_and_fossilize(teller)
    _cull(teller)
    named["before the layer"] = teller.record(ADA, captured("asked", teller.state.version, "blake3:good"))
    _add_layer_and_be_refused(teller)
    named["went back"] = teller.roll_back(
        named["before the layer"], fingerprint="blake3:good", expected="blake3:good", trigger="asked"
    )
    _germinate_in_vain(teller)
    named["resumed"] = teller.record(ADA, RunResumed(environment=evolve(ENVIRONMENT, torch="2.7.0")))
    return teller


def _widen_by_decision(teller: Teller) -> None:
    named = teller.versions
    named["decided"] = teller.record(TAMIYO, DecisionReceived(decision=DECISION))
    cause = evolve(TAMIYO, caused_by=named["decided"])
    widen(teller, cause)
    named["widened"] = named["decided"] + 2  # after its capture, before its watch
    teller.record(cause, DecisionSettled(decision_id="d-1", outcome="applied"))


def widen(teller: Teller, cause: Cause = ADA) -> int:
    """Widen the first layer from 8 to 12 units, and what it feeds."""
    gather = IndexMap(((0, 8), (-1, 4)))
    widening = change(
        ResizeTensor("first.weight", 0, gather),
        ResizeTensor("first.bias", 0, gather),
        ResizeTensor("last.weight", 1, gather),
        SetAttribute("first", "out_features", 12),
        SetAttribute("last", "in_features", 12),
        manifest="blake3:narrow",
        parameters_before=58,
        parameters_after=86,
        bytes_before=232,
        bytes_after=344,
        output_difference=0.0,
        duration_ms=12.5,
        optimizer={"first.weight": "resized", "first.bias": "resized", "last.weight": "resized"},
        validators={"memory": "valid"},
    )
    facts = surgery_commands.modify_layer_width(
        teller.state,
        widening,
        layer_name="first",
        old_width=8,
        new_width=12,
        initialization="kaiming",
        kept_units=None,
    )
    return teller.record(cause, *facts)


def _grow_and_fossilize(teller: Teller) -> None:
    named = teller.versions
    named["planted a"] = teller.record(ADA, *seed_commands.plant(teller.state, "a", "first"))
    named["germinated a"] = _germinate(teller, "a")
    advancing = seed_commands.advance(teller.state, "a", "advance", evidence={})
    named["training a"] = teller.record(ADA, *advancing)
    blending = seed_commands.advance(
        teller.state, "a", "advance", evidence={"gain": 0.25}, override="the demo is tomorrow"
    )
    named["blending a"] = teller.record(ADA, *blending)
    for _ in range(6):
        teller.epoch(val_acc=0.75)
    fossilizing = seed_commands.fossilize(
        teller.state,
        "a",
        change(SetAttribute("a", "mode", "permanent"), manifest="blake3:a"),
        layer="a",
        evidence={"contribution": 0.125},
    )
    named["fossilized a"] = teller.record(TAMIYO, *fossilizing)


def _germinate(teller: Teller, seed: str) -> int:
    facts = seed_commands.germinate(
        teller.state,
        seed,
        change(slot(seed), manifest=f"blake3:{seed}", optimizer={f"{seed}.kernel.weight": "new"}),
        kernel="mlp",
        arguments={"width": 8},
        evidence={},
    )
    return teller.record(ADA, *facts)


def _cull(teller: Teller) -> None:
    named = teller.versions
    named["planted b"] = teller.record(ADA, *seed_commands.plant(teller.state, "b", "last"))
    named["germinated b"] = _germinate(teller, "b")
    culling = seed_commands.cull(
        teller.state, "b", change(RemoveModule("b"), manifest="blake3:b"), reason="no gain"
    )
    named["culled b"] = teller.record(ADA, *culling)


def _add_layer_and_be_refused(teller: Teller) -> None:
    named = teller.versions
    adding = AddModule("extra", Architecture({"": linear(12, 12)}), "first", Initial(), "first")

    def add() -> tuple[Fact, ...]:
        return surgery_commands.add_layer(
            teller.state,
            change(adding, manifest="blake3:extra", parameters_before=10, parameters_after=20),
            layer_name="extra",
            after_layer="first",
            connection_type="sequential",
            kind="linear",
        )

    teller.record(ADA, *add())
    named["added extra"] = teller.state.version - 1  # before its watch
    teller.epoch(val_acc=0.75)
    try:
        add()
    except Refused as refusal:
        named["refused"] = teller.record(
            ADA, refused("add_layer", "extra", refusal, {"after_layer": "first"})
        )


def refused(operation: str, target: str, refusal: Refused, arguments: Mapping[str, object]) -> SurgeryRefused:
    return SurgeryRefused(
        operation=operation,
        target=target,
        arguments=arguments,
        check=refusal.check,
        reason=refusal.reason,
        state_restored=True,
    )


def _germinate_in_vain(teller: Teller) -> None:
    named = teller.versions
    named["planted c"] = teller.record(ADA, *seed_commands.plant(teller.state, "c", "first"))
    named["germinated c"] = _germinate(teller, "c")
    named["went back for good"] = teller.roll_back(
        named["widened"], fingerprint="blake3:wide", expected=None, trigger="resume"
    )


def told_envelopes(teller: Teller) -> tuple[Envelope, ...]:
    return teller.log.history(teller.state.id)
