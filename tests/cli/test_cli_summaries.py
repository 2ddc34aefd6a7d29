"""Facts and edits in words."""

from __future__ import annotations

import pytest

from esper_es.cli.edit_words import edit_in_words
from esper_es.cli.summaries import SUMMARIES, summary_of
from esper_es.domain.alpha import AlphaSchedule
from esper_es.domain.architecture import Architecture, Connection, ModuleNode, TensorSpec
from esper_es.domain.catalog import ENTRIES
from esper_es.domain.decisions import AdaptationDecision
from esper_es.domain.edits import (
    EDIT_NAMES,
    AddModule,
    Connect,
    Disconnect,
    Edit,
    Fill,
    Initial,
    RemoveModule,
    ReplaceModule,
    ResizeTensor,
    ScaleSlice,
    ScaleTensor,
    SetAttribute,
    SetScalar,
    digests_of,
)
from esper_es.domain.facts import (
    AlphaChanged,
    BaseModel,
    CapturesReleased,
    DecisionReceived,
    DecisionSettled,
    Effects,
    Environment,
    EpochEnded,
    Fact,
    LayerAdded,
    LayerRemoved,
    LayerWidthModified,
    ModelRegistered,
    RolledBack,
    RunResumed,
    SeedAdvanced,
    SeedCulled,
    SeedFossilized,
    SeedGerminated,
    SeedInherited,
    SeedPlanted,
    SkipConnectionAdded,
    SkipConnectionRemoved,
    StateCaptured,
    SurgeryRefused,
    TrainingContinued,
    WatchClosed,
    WatchOpened,
)
from esper_es.domain.index_map import IndexMap
from esper_es.domain.lifecycle import ESPER_LITE
from esper_es.domain.policies import CapturePolicy

LINEAR = Architecture({"": ModuleNode("linear", {}, {"weight": TensorSpec((3, 2), "float32", "parameter")})})
HERE = Environment(
    esper_es="0.1.0",
    python="3.11",
    torch="2.13",
    device="cpu",
    cpu_capability="AVX2",
    threads=2,
    deterministic=False,
    default_dtype="float32",
)
GREW = Effects(parameters_before=1000, parameters_after=2500)
SHRANK = Effects(parameters_before=10, parameters_after=4)

SUMMARIES_EXPECTED: list[tuple[Fact, str]] = [
    (
        ModelRegistered(
            name="m",
            base=BaseModel(blueprint="net", arguments={}, architecture=LINEAR, memory_bytes=0),
            forked_from=("old", 7),
            capture=CapturePolicy(),
            lifecycle=ESPER_LITE,
            environment=HERE,
        ),
        "registered m: 1 module, 6 parameters, blueprint net, forked from old 7",
    ),
    (RunResumed(environment=HERE), "a process took the run up again, torch 2.13 on cpu"),
    (
        StateCaptured(
            of_version=4, manifest="", model_fingerprint="", tensors=2, nbytes=2048, reason="asked"
        ),
        "captured the state of version 4 (asked): 2 tensors, 2.0 KiB",
    ),
    (CapturesReleased(versions=(3, 5)), "gave up the captures 3, 5"),
    (
        LayerAdded(
            layer_name="x",
            after_layer="a.b",
            connection_type="residual",
            kind="conv2d",
            edits=(),
            effects=GREW,
            base_capture=None,
        ),
        "added x (conv2d) after a.b, residual: +1,500 parameters",
    ),
    (
        LayerRemoved(
            layer_name="x",
            bridge_strategy="learned",
            adapter_added=True,
            bridge_r2=0.98,
            edits=(),
            effects=SHRANK,
            base_capture=None,
        ),
        "removed x, bridge learned with an adapter, R2 0.980: -6 parameters",
    ),
    (
        LayerWidthModified(
            layer_name="x",
            old_width=8,
            new_width=4,
            initialization="zeros",
            edits=(),
            effects=SHRANK,
            base_capture=None,
        ),
        "narrowed x from 8 to 4: -6 parameters, zeros",
    ),
    (
        SkipConnectionAdded(
            from_layer="a",
            to_layer="b",
            connection_type="add",
            connection_id="s",
            projection="p",
            edits=(),
            effects=GREW,
            base_capture=None,
        ),
        "joined a to b through p (add): +1,500 parameters",
    ),
    (
        SkipConnectionRemoved(
            from_layer="a", to_layer="b", connection_id="s", edits=(), effects=SHRANK, base_capture=None
        ),
        "parted a from b: -6 parameters",
    ),
    (
        SurgeryRefused(operation="add_layer", target="", arguments={}, check="memory", reason="too much"),
        "refused add_layer on (root) by memory: too much",
    ),
    (SeedPlanted(seed="s", layer="a", stage="DORMANT"), "planted seed s after a (DORMANT)"),
    (
        SeedInherited(seed="s", layer="a", stage="TRAINING", outcome="growing", kernel="mlp"),
        "inherited seed s after a (TRAINING, mlp)",
    ),
    (
        SeedGerminated(
            seed="s",
            kernel="mlp",
            arguments={},
            stage="GERMINATED",
            gate="G0",
            edits=(),
            effects=GREW,
            base_capture=None,
        ),
        "seed s germinated as mlp (GERMINATED): +1,500 parameters",
    ),
    (
        SeedAdvanced(seed="s", from_stage="TRAINING", stage="BLENDING", gate="G2", override="demo"),
        "seed s from TRAINING to BLENDING by G2, gate overridden: demo",
    ),
    (AlphaChanged(seed="s", alpha=0.25, edits=()), "seed s blends with alpha 0.25"),
    (
        AlphaChanged(seed="s", alpha=0.5, edits=(), schedule=AlphaSchedule()),
        "seed s blends with alpha 0.5 by hand",
    ),
    (
        SeedCulled(
            seed="s",
            from_stage="TRAINING",
            stage="PRUNED",
            reason="no use",
            edits=(),
            effects=SHRANK,
            base_capture=None,
        ),
        "seed s culled in TRAINING: no use",
    ),
    (
        SeedFossilized(
            seed="s",
            from_stage="HOLDING",
            stage="FOSSILIZED",
            layer="a.s",
            gate="G5",
            edits=(),
            effects=GREW,
            base_capture=None,
        ),
        "seed s fossilized as layer a.s",
    ),
    (
        EpochEnded(epoch=3, step=12, metrics={"val_acc": 0.93, "loss": 0.5}),
        "epoch 3 ended at step 12: loss 0.5, val_acc 0.93",
    ),
    (TrainingContinued(step=13), "training went on with step 13"),
    (
        TrainingContinued(step=13, moved=("module", "modes")),
        "changed without an optimizer step: module, modes",
    ),
    (
        WatchOpened(
            subject_version=8,
            metric="acc",
            mode="max",
            baseline=0.5,
            minimum_score=0.9,
            required_score=0.95,
            until_epoch=5,
        ),
        "version 8 is on trial until epoch 5 by acc (max), baseline 0.5",
    ),
    (
        WatchClosed(subject_version=8, outcome="kept", observed=0.6, score=1.2, reason="score 1.2"),
        "trial of version 8 ended, kept: score 1.2",
    ),
    (
        RolledBack(
            to_version=5,
            capture_version=5,
            from_version=9,
            base_capture=None,
            fingerprint="",
            model_fingerprint="",
            expected_fingerprint=None,
            epochs_discarded=1,
            steps_discarded=20,
            trigger="watch",
            reason="it fell",
        ),
        "from 9 back to 5 (watch), 1 epoch and 20 steps discarded: it fell",
    ),
    (
        DecisionReceived(
            decision=AdaptationDecision(
                decision_id="d", layer_name="a", adaptation_type="add_neurons", confidence=0.9
            )
        ),
        "decision d by policy: add_neurons on a, confidence 0.9",
    ),
    (DecisionSettled(decision_id="d", outcome="refused", reason="too late"), "decision d refused: too late"),
]

EDITS_EXPECTED: list[tuple[Edit, str]] = [
    (
        AddModule("a.x", LINEAR, "b", Initial({"weight": "b3:1"}, seed=7), "a"),
        "add module a.x (linear, 6 parameters) after b, initialised from seed 7",
    ),
    (RemoveModule("a.x"), "remove module a.x"),
    (
        ReplaceModule("a", LINEAR, Initial(given=True), keep="", keep_as="body"),
        "replace module a by linear, 6 parameters, keeping (root) as body, built by the caller",
    ),
    (
        ResizeTensor("a.weight", 0, IndexMap(((0, 8), (-1, 4))), Fill("kaiming", {"fan_in": 72}, 5, "b3:2")),
        "resize a.weight along dimension 0 to 12 entries, 8 kept and 4 new (kaiming fan_in=72, seed 5)",
    ),
    (ScaleTensor("a.weight", 0.5), "multiply a.weight by 0.5"),
    (
        ScaleSlice("a.weight", 1, IndexMap.of([0, 2]), 0.5),
        "multiply 2 slices of a.weight along dimension 1 by 0.5",
    ),
    (SetAttribute("", "padding", [1, 1]), "set (root) padding to [1, 1]"),
    (SetScalar("s.alpha", 0.25), "set s.alpha to 0.25"),
    (Connect(Connection("c", "skip", "a", "b", "p", 0, "add")), "connect c: a joins b through p (add)"),
    (Connect(Connection("c", "after", "a", "a", "x", 0)), "connect c: run x on the output of a"),
    (Disconnect("c"), "disconnect c"),
]


@pytest.mark.parametrize(("fact", "expected"), SUMMARIES_EXPECTED, ids=lambda value: type(value).__name__)
def test_a_fact_is_said_in_a_few_words(fact: Fact, expected: str) -> None:
    assert summary_of(fact) == expected


def test_every_fact_of_the_catalog_has_its_words() -> None:
    assert (
        set(SUMMARIES) == {entry.cls for entry in ENTRIES} == {type(fact) for fact, _ in SUMMARIES_EXPECTED}
    )


@pytest.mark.parametrize(("edit", "expected"), EDITS_EXPECTED, ids=lambda value: type(value).__name__)
def test_an_edit_is_said_in_words(edit: Edit, expected: str) -> None:
    assert edit_in_words(edit) == expected


def test_every_edit_has_its_words() -> None:
    assert {type(edit) for edit, _ in EDITS_EXPECTED} == set(EDIT_NAMES)


def test_the_digests_of_an_edit_are_those_of_the_tensors_it_brings_in() -> None:
    digests = [digests_of(edit) for edit, _ in EDITS_EXPECTED]
    assert [found for found in digests if found] == [{"a.x.weight": "b3:1"}, {"a.weight": "b3:2"}]
