"""One example of each fact, with a value that is not the default in every field that has one."""

from __future__ import annotations

from attrs import evolve

from esper_es.domain import facts
from esper_es.domain.alpha import AlphaSchedule
from esper_es.domain.architecture import Architecture, Connection, ModuleNode, TensorSpec
from esper_es.domain.constraints import SurgeryConstraints
from esper_es.domain.decisions import AdaptationDecision
from esper_es.domain.edits import (
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
)
from esper_es.domain.envelope import Cause, Envelope, model_id
from esper_es.domain.facts import Fact
from esper_es.domain.index_map import IndexMap
from esper_es.domain.lifecycle import ESPER_LITE
from esper_es.domain.policies import CapturePolicy, WatchPolicy

from .small_model import BASE, ENVIRONMENT, leaf, linear

_EFFECTS = facts.Effects(
    output_difference=1.5e-7,
    parameters_before=58,
    parameters_after=130,
    bytes_before=232,
    bytes_after=520,
    memory_bytes=4096,
    graph_depth=3,
    optimizer={"first.weight": "resized", "mid.weight": "new"},
    duration_ms=12.25,
    validators={"dimension": "passed", "memory": "passed: 4096 of 500000000 bytes"},
)
_TIED = Architecture(
    {
        "": ModuleNode("sequential", children=("encode", "decode")),
        "encode": linear(8, 8),
        "decode": ModuleNode("linear", {"bias": False}),
    },
    aliases={"again": "encode"},
    ties={"decode.weight": "encode.weight"},
)
_FILL = Fill("kaiming_uniform", {"fan_in": 72.0}, seed=2**63 + 5, digest="blake3:new")
_INITIAL = Initial({"weight": "blake3:w"}, seed=42, fills={"bias": Fill("zeros")}, given=True)
_SKIP = Connection("skip-1", "skip", "first", "last", "bridge", 3, "add")
_ADD = AddModule("mid", _TIED, "first", _INITIAL, "first")
_RESIZE = ResizeTensor("first.weight", 0, IndexMap(((0, 8), (-1, 2), (3, 1))), _FILL)
_ALPHA = SetScalar("a.alpha", 0.25)

DECISION = AdaptationDecision(
    decision_id="d-17",
    layer_name="first",
    adaptation_type="add_neurons",
    confidence=0.875,
    urgency=0.25,
    parameters={"new_width": 11, "initialization": "kaiming"},
    reasoning="plateau since epoch 40",
    actor="tamiyo",
    metadata={"trend": [0.5, None, {"loss": 1e-3}]},
    timestamp=1763892000.5,
)

SAMPLES: tuple[Fact, ...] = (
    facts.ModelRegistered(
        name="digits",
        base=facts.BaseModel(
            blueprint="digits-cnn",
            arguments={"width": 32, "activations": ["relu", None], "bias": True},
            architecture=evolve(BASE, connections=(_SKIP,), aliases={"x": "act"}, ties={"y": "last.bias"}),
            memory_bytes=2_000_000,
            outputs=((8, 10), ()),
        ),
        edits=(_ADD, RemoveModule("act")),
        forked_from=("parent", 12),
        constraints=SurgeryConstraints(max_layers_to_add=7, max_memory_increase_mb=64.5),
        capture=CapturePolicy(before_structural_change=False, every_n_epochs=4, keep_last=9),
        watch=WatchPolicy(metric="val_loss", mode="min", epochs=6),
        examples="sha256:" + "e" * 64,
        lifecycle=ESPER_LITE,
        environment=ENVIRONMENT,
    ),
    facts.RunResumed(environment=ENVIRONMENT, left_out=("cuda:1: not here",), fresh=("optimizer",)),
    facts.StateCaptured(
        of_version=3,
        manifest="blake3:manifest",
        model_fingerprint="sha256:model",
        tensors=4,
        nbytes=232,
        reason="before add_layer",
    ),
    facts.CapturesReleased(versions=(2, 5)),
    facts.LayerAdded(
        layer_name="mid",
        after_layer="first",
        connection_type="sequential",
        kind="sequential",
        edits=(_ADD, Connect(_SKIP), Disconnect("skip-0")),
        effects=_EFFECTS,
        base_capture=4,
    ),
    facts.LayerRemoved(
        layer_name="act",
        bridge_strategy="learned",
        adapter_added=True,
        bridge_r2=0.9375,
        edits=(ReplaceModule("act", leaf(linear(8, 8)), _INITIAL, keep="kernel", keep_as="inner"),),
        effects=_EFFECTS,
        base_capture=6,
    ),
    facts.LayerWidthModified(
        layer_name="first",
        old_width=8,
        new_width=11,
        initialization="kaiming",
        kept_units=IndexMap.of([0, 1, 2, 7]),
        dimension=0,
        units=(8, 11),
        method="old units split",
        edits=(
            _RESIZE,
            SetAttribute("first", "out_features", 11),
            ScaleSlice("last.weight", 1, IndexMap.of([0, 1, 7]), 0.5),
        ),
        effects=_EFFECTS,
        base_capture=8,
    ),
    facts.SkipConnectionAdded(
        from_layer="first",
        to_layer="last",
        connection_type="add",
        connection_id="skip-1",
        projection="bridge",
        edits=(Connect(_SKIP),),
        effects=_EFFECTS,
        base_capture=10,
    ),
    facts.SkipConnectionRemoved(
        from_layer="first",
        to_layer="last",
        connection_id="skip-1",
        edits=(Disconnect("skip-1"), RemoveModule("bridge")),
        effects=_EFFECTS,
        base_capture=10,
    ),
    facts.SurgeryRefused(
        operation="add_layer",
        target="first",
        arguments={"new_layer": {"kind": "linear", "sizes": [8, 8]}, "layer_name": None},
        check="max_layers_to_add",
        reason="layers added: 6 would exceed max_layers_to_add=5",
        state_restored=True,
    ),
    facts.SeedPlanted(seed="a", layer="first", stage="DORMANT"),
    facts.SeedInherited(
        seed="b",
        layer="first",
        stage="BLENDING",
        outcome="growing",
        kernel="mlp",
        arguments={"expansion": 2},
        path="b",
        alpha=0.25,
        schedule=AlphaSchedule(curve="cosine", epochs=4),
        epochs_in_stage=1,
        epochs_in_ramp=1,
    ),
    facts.SeedGerminated(
        seed="a",
        kernel="bottleneck",
        arguments={"reduction": 4},
        stage="GERMINATED",
        gate="G0",
        evidence={"identity": 1.0},
        edits=(
            AddModule(
                "a",
                leaf(
                    ModuleNode(
                        "seed_slot", {"mode": "incubating"}, {"alpha": TensorSpec((), "float32", "buffer")}
                    )
                ),
                None,
                Initial(),
                "first",
            ),
        ),
        effects=_EFFECTS,
        base_capture=12,
    ),
    facts.SeedAdvanced(
        seed="a",
        from_stage="TRAINING",
        stage="BLENDING",
        gate="G2",
        evidence={"accuracy_gain": 0.0125},
        thresholds={"accuracy_gain": 0.005},
        epochs_in_stage=11,
        override="reviewed by hand",
        schedule=AlphaSchedule(curve="cosine", start=0.125, target=0.75, epochs=8),
        edits=(SetAttribute("a", "mode", "blending"),),
    ),
    facts.AlphaChanged(
        seed="a", alpha=0.25, edits=(_ALPHA,), schedule=AlphaSchedule(start=0.25, target=0.25, epochs=1)
    ),
    facts.SeedCulled(
        seed="a",
        from_stage="BLENDING",
        stage="PRUNED",
        reason="no gain",
        edits=(RemoveModule("a"),),
        effects=_EFFECTS,
        base_capture=16,
    ),
    facts.SeedFossilized(
        seed="a",
        from_stage="HOLDING",
        stage="FOSSILIZED",
        layer="a",
        gate="G5",
        evidence={"contribution": 0.015625},
        thresholds={"contribution": 0.01},
        epochs_in_stage=12,
        override="kept for the demonstration",
        edits=(ScaleTensor("a.kernel.weight", 0.5),),
        effects=_EFFECTS,
        base_capture=18,
    ),
    facts.EpochEnded(epoch=9, step=900, metrics={"val_acc": 0.90625, "loss": -1.5e-9}),
    facts.TrainingContinued(step=901, moved=("module", "generators")),
    facts.WatchOpened(
        subject_version=5,
        metric="val_acc",
        mode="max",
        baseline=0.875,
        minimum_score=0.9,
        required_score=0.95,
        until_epoch=12,
    ),
    facts.WatchClosed(
        subject_version=5,
        outcome="rolled_back",
        observed=0.5,
        score=0.5714285714285714,
        reason="rollback_on_performance_drop: score 0.5714 below 0.9",
    ),
    facts.RolledBack(
        to_version=3,
        capture_version=3,
        from_version=22,
        base_capture=22,
        fingerprint="sha256:whole",
        model_fingerprint="sha256:model",
        expected_fingerprint="sha256:whole",
        epochs_discarded=2,
        steps_discarded=200,
        trigger="watch",
        reason="val_acc fell",
    ),
    facts.DecisionReceived(decision=DECISION),
    facts.DecisionSettled(decision_id="d-17", outcome="refused", reason="min_epochs_between_surgeries=10"),
)

_SCATTERED = IndexMap.of([0, 2, 4, 6, 8, 9, 11])
FOLDED = facts.LayerWidthModified(
    layer_name="embed",
    old_width=12,
    new_width=10,
    initialization="kaiming",
    kept_units=_SCATTERED,
    dimension=0,
    units=(12, 7),
    edits=(
        ResizeTensor("embed.weight", 0, _SCATTERED),
        *(
            edit
            for block in range(3)
            for edit in (
                ResizeTensor(
                    f"blocks.{block}.fc.weight",
                    1,
                    IndexMap(((0, 8), (-1, 2))),
                    Fill("kaiming", {"fan_in": 72.0}, 90 + 5 * block, "blake3:new", offset=720 * block),
                ),
                ResizeTensor(f"blocks.{block}.fc.bias", 0, _SCATTERED),
                SetAttribute(f"blocks.{block}.fc", "out_features", 10),
            )
        ),
        ScaleTensor("embed.weight", 0.5),
    ),
    effects=evolve(
        _EFFECTS,
        optimizer={
            "embed.weight": "kept",
            **{f"blocks.{block}.fc.{name}": "resized" for block in range(3) for name in ("weight", "bias")},
        },
    ),
    base_capture=8,
)
"""A fact that is stored folded: a map that stands in several places, edits in series, effects by patterns."""


def with_own_slices(fact: facts.LayerWidthModified) -> facts.LayerWidthModified:
    """What ``FOLDED`` was before the slices of several tensors could lie in one."""

    def apart(block: int, edit: Edit) -> Edit:
        assert isinstance(edit, ResizeTensor)
        return evolve(edit, fill=Fill("kaiming", {"fan_in": 72.0}, 90 + block, f"blake3:{block}"))

    edits = list(fact.edits)
    for block, place in enumerate((1, 4, 7)):
        edits[place] = apart(block, edits[place])
    return evolve(fact, edits=tuple(edits))


MODEL = model_id("digits")
CAUSE = Cause(
    actor="tamiyo", reasoning="plateau since epoch 40", decision_id="d-17", confidence=0.875, caused_by=4
)


def enclosed(fact: Fact, version: int = 23) -> Envelope:
    """Put a fact into an envelope."""
    return Envelope(
        originator_id=MODEL,
        originator_version=version,
        at="2026-11-23T10:11:12.131415+00:00",
        epoch=9,
        step=901,
        cause=CAUSE,
        fact=fact,
    )
