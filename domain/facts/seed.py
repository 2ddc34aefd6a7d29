"""The life of a seed."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from esper_es.domain.alpha import AlphaSchedule
from esper_es.domain.canonical import Json
from esper_es.domain.edits import Edit
from esper_es.domain.facts.effects import Effects
from esper_es.domain.facts.finite import finite, finite_number


@frozen(kw_only=True)
class SeedPlanted:
    """A dormant seed slot was declared after a layer. It costs no module."""

    seed: str
    layer: str
    stage: str


@frozen(kw_only=True)
class SeedInherited:
    """A forked model begins with a seed of the model that it was forked from, as that was there.

    Attributes:
        seed: its id.
        layer: path of the layer after which it grows.
        stage: its stage.
        outcome: what became of it so far: ``"dormant"``, ``"growing"``, ``"culled"`` or ``"fossilized"``.
        kernel: name of its kernel, when it holds one.
        arguments: the kernel's.
        path: of its slot or layer, when it holds a module.
        alpha: weight of its branch.
        schedule: its alpha ramp, when one was set.
        epochs_in_stage: epochs spent in ``stage``.
        epochs_in_ramp: epochs since the ramp began.
    """

    seed: str
    layer: str
    stage: str
    outcome: str
    kernel: str | None = None
    arguments: Mapping[str, Json] = field(factory=dict)
    path: str | None = None
    alpha: float = field(default=0.0, validator=finite_number)
    schedule: AlphaSchedule | None = None
    epochs_in_stage: int = 0
    epochs_in_ramp: int = 0


@frozen(kw_only=True)
class SeedGerminated:
    """A kernel was loaded into a dormant slot."""

    seed: str
    kernel: str
    arguments: Mapping[str, Json]
    stage: str
    gate: str
    evidence: Mapping[str, float] = field(factory=dict, validator=finite)
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
    evidence: Mapping[str, float] = field(factory=dict, validator=finite)
    thresholds: Mapping[str, float] = field(factory=dict, validator=finite)
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
    alpha: float = field(validator=finite_number)
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
    evidence: Mapping[str, float] = field(factory=dict, validator=finite)
    thresholds: Mapping[str, float] = field(factory=dict, validator=finite)
    epochs_in_stage: int = 0
    override: str | None = None
    edits: tuple[Edit, ...]
    effects: Effects
    base_capture: int | None
