"""Everything that can have happened to a model, in the past tense.

A fact is frozen and pure. Its stored name and schema version stand in ``catalog.py``; the module it lives in is the
first word of that name: ``surgery.layer_added`` is in ``surgery.py``.
"""

from __future__ import annotations

from esper_es.domain.facts.clock import EpochEnded, TrainingContinued
from esper_es.domain.facts.decision import DecisionReceived, DecisionSettled
from esper_es.domain.facts.effects import Effects
from esper_es.domain.facts.environment import Environment
from esper_es.domain.facts.model import BaseModel, ModelRegistered
from esper_es.domain.facts.run import RunResumed
from esper_es.domain.facts.seed import (
    AlphaChanged,
    SeedAdvanced,
    SeedCulled,
    SeedFossilized,
    SeedGerminated,
    SeedInherited,
    SeedPlanted,
)
from esper_es.domain.facts.state import CapturesReleased, RolledBack, StateCaptured
from esper_es.domain.facts.surgery import (
    LayerAdded,
    LayerRemoved,
    LayerWidthModified,
    SkipConnectionAdded,
    SkipConnectionRemoved,
    SurgeryRefused,
)
from esper_es.domain.facts.watch import WatchClosed, WatchOpened

__all__ = [
    "AlphaChanged",
    "BaseModel",
    "CapturesReleased",
    "DecisionReceived",
    "DecisionSettled",
    "EditingFact",
    "Effects",
    "Environment",
    "EpochEnded",
    "Fact",
    "LayerAdded",
    "LayerRemoved",
    "LayerWidthModified",
    "ModelRegistered",
    "RolledBack",
    "RunResumed",
    "SeedAdvanced",
    "SeedCulled",
    "SeedFossilized",
    "SeedGerminated",
    "SeedInherited",
    "SeedPlanted",
    "SkipConnectionAdded",
    "SkipConnectionRemoved",
    "StateCaptured",
    "StructuralFact",
    "SurgeryRefused",
    "TrainingContinued",
    "WatchClosed",
    "WatchOpened",
]

StructuralFact = (
    LayerAdded
    | LayerRemoved
    | LayerWidthModified
    | SkipConnectionAdded
    | SkipConnectionRemoved
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
    | SkipConnectionRemoved
    | SurgeryRefused
    | SeedPlanted
    | SeedInherited
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
