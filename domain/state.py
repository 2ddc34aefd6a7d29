"""What a model is now, folded from its facts."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from attrs import field, frozen

from esper_es.domain.alpha import AlphaSchedule
from esper_es.domain.architecture import Architecture
from esper_es.domain.canonical import Json
from esper_es.domain.constraints import SurgeryConstraints
from esper_es.domain.facts import BaseModel, Environment
from esper_es.domain.lifecycle import LifecycleProfile
from esper_es.domain.policies import CapturePolicy, WatchPolicy


@frozen(kw_only=True)
class Seed:
    """One seed.

    Attributes:
        id: unique in the model.
        layer: module path after which it grows.
        stage: name of its stage.
        entered_epoch: epoch at which it entered that stage.
        kernel: name of its kernel, when it holds one.
        arguments: the kernel's arguments.
        path: module path of its slot, when it holds a module.
        alpha: weight of its branch.
        schedule: alpha ramp, when one was set.
        ramp_epoch: epoch at which the ramp began.
    """

    id: str
    layer: str
    stage: str
    entered_epoch: int
    kernel: str | None = None
    arguments: Mapping[str, Json] = field(factory=dict)
    path: str | None = None
    alpha: float = 0.0
    schedule: AlphaSchedule | None = None
    ramp_epoch: int = 0


@frozen(kw_only=True)
class Watch:
    """A surgery on trial; see ``facts.WatchOpened``."""

    subject_version: int
    metric: str
    mode: str
    baseline: float
    minimum_score: float
    required_score: float
    until_epoch: int


@frozen(kw_only=True)
class Lineage:
    """The part of the state that a rollback takes back.

    Attributes:
        architecture: structure.
        seeds: by id.
        watches: open ones.
        edits_of: versions of the facts whose edits lead here from the base model, in order.
        layers_added: surgeries that added a layer.
        layers_removed: surgeries that removed one.
        memory_bytes: estimated training memory.
        graph_depth: parametrised operations on the longest path.
        metrics: of the last epoch.
        trained_epochs: epochs that led to this state.
        trained_steps: optimizer steps that led to this state.
    """

    architecture: Architecture
    seeds: Mapping[str, Seed] = field(factory=dict)
    watches: tuple[Watch, ...] = ()
    edits_of: tuple[int, ...] = ()
    layers_added: int = 0
    layers_removed: int = 0
    memory_bytes: int = 0
    graph_depth: int = 0
    metrics: Mapping[str, float] = field(factory=dict)
    trained_epochs: int = 0
    trained_steps: int = 0


@frozen(kw_only=True)
class CapturePoint:
    """A capture that can be restored; see ``facts.StateCaptured``."""

    version: int
    of_version: int
    manifest: str
    model_fingerprint: str


@frozen(kw_only=True)
class Restorable:
    """How to get a version back exactly.

    Attributes:
        version: the version.
        capture: version of the capture to load.
        edits_of: versions of facts whose edits are applied after loading.
        lineage: state at the version.
        epoch: epoch at the version.
    """

    version: int
    capture: int
    edits_of: tuple[int, ...]
    lineage: Lineage
    epoch: int


@frozen(kw_only=True)
class ModelState:
    """The aggregate's state.

    Attributes:
        id: of the model.
        name: of the model.
        version: of the last fact.
        base: the model at birth.
        constraints: limits, or None.
        capture_policy: see ``CapturePolicy``.
        watch_policy: see ``WatchPolicy``, or None.
        lifecycle: profile of the seeds.
        environment: of the process that last attached.
        lineage: what a rollback takes back.
        captures: capture points by version, released ones left out.
        restorable: versions that can be restored exactly.
        standing: how to get back what the run is now, its random generators and training flags aside; None once
            it was trained or changed since. In ``restorable`` too, unless these moved.
        epoch: epochs that ended, never rewound.
        step: optimizer steps up to the last fact, never rewound.
        last_surgery_epoch: epoch of the last successful surgery.
        surgeries_this_epoch: successful surgeries in that epoch.
    """

    id: UUID
    name: str
    version: int
    base: BaseModel
    constraints: SurgeryConstraints | None
    capture_policy: CapturePolicy
    watch_policy: WatchPolicy | None
    lifecycle: LifecycleProfile
    environment: Environment
    lineage: Lineage
    captures: Mapping[int, CapturePoint] = field(factory=dict)
    restorable: Mapping[int, Restorable] = field(factory=dict)
    standing: Restorable | None = None
    epoch: int = 0
    step: int = 0
    last_surgery_epoch: int | None = None
    surgeries_this_epoch: int = 0

    @property
    def architecture(self) -> Architecture:
        return self.lineage.architecture

    @property
    def seeds(self) -> Mapping[str, Seed]:
        return self.lineage.seeds
