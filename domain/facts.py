"""Everything that can have happened to a model, in the past tense.

A fact is frozen and pure. Its stored name and schema version stand in ``catalog.py``.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import Attribute, field, frozen

from esper_es.domain.alpha import AlphaSchedule
from esper_es.domain.architecture import Architecture
from esper_es.domain.canonical import Json, finite_numbers
from esper_es.domain.constraints import SurgeryConstraints
from esper_es.domain.decisions import AdaptationDecision
from esper_es.domain.edits import Edit
from esper_es.domain.lifecycle import LifecycleProfile
from esper_es.domain.policies import CapturePolicy, WatchPolicy


def _finite(instance: object, attribute: Attribute[Mapping[str, float]], value: Mapping[str, float]) -> None:
    finite_numbers(value, f"{type(instance).__name__}.{attribute.name}")


def _finite_number(instance: object, attribute: Attribute[float], value: float | None) -> None:
    if value is not None:
        finite_numbers({attribute.name: value}, type(instance).__name__)


@frozen(kw_only=True)
class BaseModel:
    """What a model was before its first change, and how to build it again.

    Attributes:
        blueprint: name of a registered blueprint, or None when ``architecture`` describes it fully.
        arguments: the blueprint's arguments.
        architecture: description at birth.
        memory_bytes: estimated training memory at birth.
        graph_depth: parametrised operations on the longest path at birth.
        outputs: shapes of the example outputs at birth, for the reader.
    """

    blueprint: str | None
    arguments: Mapping[str, Json]
    architecture: Architecture
    memory_bytes: int
    graph_depth: int = 0
    outputs: tuple[tuple[int, ...], ...] = ()


@frozen(kw_only=True)
class Environment:
    """Software and hardware under which facts were made."""

    esper_es: str
    python: str
    torch: str
    device: str
    cpu_capability: str
    threads: int
    deterministic: bool
    default_dtype: str
    code_commit: str | None = None


@frozen(kw_only=True)
class Effects:
    """What a structural change did, measured before it was committed.

    Attributes:
        output_difference: largest absolute change of any example output over the largest absolute output, in
            eval mode; None when outputs can't be compared.
        parameters_before: scalar parameters before.
        parameters_after: scalar parameters after.
        bytes_before: bytes of parameters and buffers before.
        bytes_after: the same after.
        memory_bytes: estimated training memory after.
        graph_depth: parametrised operations on the longest path after.
        optimizer: by tensor name, what became of its optimizer state: ``"resized"``, ``"new"``,
            ``"removed"``, ``"kept"`` where a tensor moved; tensors not named were kept untouched.
        duration_ms: time from the call to just before the commit.
        validators: verdicts of the validator chain by name.
    """

    output_difference: float | None = field(default=None, validator=_finite_number)
    parameters_before: int = 0
    parameters_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    memory_bytes: int = 0
    graph_depth: int = 0
    optimizer: Mapping[str, str] = field(factory=dict)
    duration_ms: float = field(default=0.0, validator=_finite_number)
    validators: Mapping[str, str] = field(factory=dict)


@frozen(kw_only=True)
class ModelRegistered:
    """A model came under the engine's care.

    Attributes:
        name: unique in the log.
        base: what it was.
        edits: changes inherited from the model it was forked from.
        forked_from: ``(name, version)`` of that model.
        constraints: limits; None for none.
        capture: capture policy.
        watch: watch policy; None when no metric judges surgeries.
        lifecycle: profile of its seeds.
        environment: where.
    """

    name: str
    base: BaseModel
    edits: tuple[Edit, ...] = ()
    forked_from: tuple[str, int] | None = None
    constraints: SurgeryConstraints | None = None
    capture: CapturePolicy
    watch: WatchPolicy | None = None
    lifecycle: LifecycleProfile
    environment: Environment


@frozen(kw_only=True)
class RunResumed:
    """A process attached a live model to the log; it holds the state of the version before, bit for bit."""

    environment: Environment


@frozen(kw_only=True)
class StateCaptured:
    """Every tensor and counter of the run was stored in the vault.

    Attributes:
        of_version: the version whose last state this is.
        manifest: digest of the manifest, which is the fingerprint of the whole state: module, optimizer,
            scheduler, scaler, RNG.
        model_fingerprint: of the module alone: architecture and bytes.
        tensors: how many tensors the manifest names.
        nbytes: their bytes.
        reason: ``"birth"``, ``"before <operation>"``, ``"asked"``, ``"every N epochs"``.
    """

    of_version: int
    manifest: str
    model_fingerprint: str
    tensors: int
    nbytes: int
    reason: str


@frozen(kw_only=True)
class CapturesReleased:
    """The retention policy gave up captures; garbage collection may delete their tensors."""

    versions: tuple[int, ...]


@frozen(kw_only=True)
class LayerAdded:
    """A layer was inserted after another."""

    layer_name: str
    after_layer: str
    connection_type: str
    kind: str
    edits: tuple[Edit, ...]
    effects: Effects
    base_capture: int | None


@frozen(kw_only=True)
class LayerRemoved:
    """A layer was taken out and its neighbours bridged."""

    layer_name: str
    bridge_strategy: str
    adapter_added: bool
    bridge_r2: float | None = field(default=None, validator=_finite_number)
    edits: tuple[Edit, ...]
    effects: Effects
    base_capture: int | None


@frozen(kw_only=True)
class LayerWidthModified:
    """A layer became wider or narrower, and everything that is fed by it followed."""

    layer_name: str
    old_width: int
    new_width: int
    initialization: str
    kept_units: tuple[int, ...] | None = None
    edits: tuple[Edit, ...]
    effects: Effects
    base_capture: int | None


@frozen(kw_only=True)
class SkipConnectionAdded:
    """The output of one layer now joins the output of a later one."""

    from_layer: str
    to_layer: str
    connection_type: str
    connection_id: str
    projection: str | None
    edits: tuple[Edit, ...]
    effects: Effects
    base_capture: int | None


@frozen(kw_only=True)
class SurgeryRefused:
    """An operation on the model was refused or failed; nothing changed.

    Attributes:
        operation: e.g. ``"add_layer"``.
        target: the layer or seed it was about.
        arguments: what was asked for.
        check: stable name of the rule or validator that said no.
        reason: for a person.
        state_restored: whether the live model was compared with its state before, and found identical; None
            when it was never touched.
    """

    operation: str
    target: str
    arguments: Mapping[str, Json]
    check: str
    reason: str
    state_restored: bool | None = None


@frozen(kw_only=True)
class SeedPlanted:
    """A dormant seed slot was declared after a layer. It costs no module."""

    seed: str
    layer: str
    stage: str


@frozen(kw_only=True)
class SeedGerminated:
    """A kernel was loaded into a dormant slot."""

    seed: str
    kernel: str
    arguments: Mapping[str, Json]
    stage: str
    gate: str
    evidence: Mapping[str, float] = field(factory=dict, validator=_finite)
    override: str | None = None
    edits: tuple[Edit, ...]
    effects: Effects
    base_capture: int | None


@frozen(kw_only=True)
class SeedAdvanced:
    """A seed entered its next stage.

    Attributes:
        seed: its id.
        from_stage: stage before.
        stage: stage after.
        gate: gate passed, or empty.
        evidence: numbers that justified it.
        thresholds: what the gate asked for.
        epochs_in_stage: epochs spent in ``from_stage``.
        override: why the gate was overridden, or None.
        schedule: alpha ramp that starts now, if one does.
        edits: change of the slot's mode, if any.
    """

    seed: str
    from_stage: str
    stage: str
    gate: str = ""
    evidence: Mapping[str, float] = field(factory=dict, validator=_finite)
    thresholds: Mapping[str, float] = field(factory=dict, validator=_finite)
    epochs_in_stage: int = 0
    override: str | None = None
    schedule: AlphaSchedule | None = None
    edits: tuple[Edit, ...] = ()


@frozen(kw_only=True)
class AlphaChanged:
    """The weight of a seed's branch moved.

    Attributes:
        seed: its id.
        alpha: weight now, in [0, 1].
        edits: the change of the slot's alpha.
        schedule: ramp that takes the place of the seed's from now on; None when the seed's own moved it.
    """

    seed: str
    alpha: float = field(validator=_finite_number)
    edits: tuple[Edit, ...]
    schedule: AlphaSchedule | None = None


@frozen(kw_only=True)
class SeedCulled:
    """A seed's module was removed; its record stays."""

    seed: str
    from_stage: str
    stage: str
    reason: str
    edits: tuple[Edit, ...]
    effects: Effects
    base_capture: int | None


@frozen(kw_only=True)
class SeedFossilized:
    """A seed became an ordinary layer."""

    seed: str
    from_stage: str
    stage: str
    layer: str | None
    gate: str
    evidence: Mapping[str, float] = field(factory=dict, validator=_finite)
    thresholds: Mapping[str, float] = field(factory=dict, validator=_finite)
    epochs_in_stage: int = 0
    override: str | None = None
    edits: tuple[Edit, ...]
    effects: Effects
    base_capture: int | None


@frozen(kw_only=True)
class EpochEnded:
    """An epoch of training ended.

    Attributes:
        epoch: how many epochs the log has seen, this one included; never rewound.
        step: how many optimizer steps the log has seen.
        metrics: finite numbers.
    """

    epoch: int
    step: int
    metrics: Mapping[str, float] = field(factory=dict, validator=_finite)


@frozen(kw_only=True)
class TrainingContinued:
    """The first optimizer step after a version that can be restored exactly.

    It keeps versions unambiguous: the version before it means the state at its commit, this one the state
    that training led to.
    """

    step: int


@frozen(kw_only=True)
class WatchOpened:
    """A surgery is on trial."""

    subject_version: int
    metric: str
    mode: str
    baseline: float = field(validator=_finite_number)
    minimum_score: float = field(validator=_finite_number)
    required_score: float = field(validator=_finite_number)
    until_epoch: int


@frozen(kw_only=True)
class WatchClosed:
    """The trial ended.

    Attributes:
        subject_version: the surgery.
        outcome: ``"kept"``, ``"rolled_back"``, or ``"failed_but_kept"`` (it fell too far, and no capture from
            before it is left to go back to).
        observed: the metric's value that decided.
        score: its share of the baseline.
        reason: which threshold decided.
    """

    subject_version: int
    outcome: str
    observed: float = field(validator=_finite_number)
    score: float = field(validator=_finite_number)
    reason: str


@frozen(kw_only=True)
class RolledBack:
    """The run went back to an earlier version.

    Attributes:
        to_version: the version asked for.
        capture_version: the capture restored; edits after it up to ``to_version`` were applied again.
        from_version: head before.
        base_capture: capture of the state that was left, so that the rollback can be rolled back.
        fingerprint: of the whole state of the live run after restoring, measured; for a rollback recorded on the
            command line, that of the verified capture, which the next attach restores.
        model_fingerprint: live module after restoring, measured.
        expected_fingerprint: what it had to be: the manifest of the capture, when that was the target itself
            (and not a surgery right after it).
        epochs_discarded: epochs of training given up.
        steps_discarded: optimizer steps given up.
        trigger: ``"asked"``, ``"watch"``, or ``"resume"`` (a process came back to a log whose last training
            was not captured).
        reason: why.
    """

    to_version: int
    capture_version: int
    from_version: int
    base_capture: int | None
    fingerprint: str
    model_fingerprint: str
    expected_fingerprint: str | None
    epochs_discarded: int
    steps_discarded: int
    trigger: str
    reason: str


@frozen(kw_only=True)
class DecisionReceived:
    """Somebody decided that the model should change."""

    decision: AdaptationDecision


@frozen(kw_only=True)
class DecisionSettled:
    """What came of a decision.

    Attributes:
        decision_id: the decision.
        outcome: ``"applied"`` or ``"refused"``.
        reason: of a refusal.
    """

    decision_id: str
    outcome: str
    reason: str = ""


StructuralFact = (
    LayerAdded
    | LayerRemoved
    | LayerWidthModified
    | SkipConnectionAdded
    | SeedGerminated
    | SeedCulled
    | SeedFossilized
)
"""Facts that change the structure, after a capture of the state before."""

EditingFact = StructuralFact | SeedAdvanced | AlphaChanged
"""Facts whose ``edits`` the live module follows."""

Fact = (
    ModelRegistered
    | RunResumed
    | StateCaptured
    | CapturesReleased
    | LayerAdded
    | LayerRemoved
    | LayerWidthModified
    | SkipConnectionAdded
    | SurgeryRefused
    | SeedPlanted
    | SeedGerminated
    | SeedAdvanced
    | AlphaChanged
    | SeedCulled
    | SeedFossilized
    | EpochEnded
    | TrainingContinued
    | WatchOpened
    | WatchClosed
    | RolledBack
    | DecisionReceived
    | DecisionSettled
)
