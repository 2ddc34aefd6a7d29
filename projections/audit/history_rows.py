"""The row of `history` that every fact has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from esper_es.domain.catalog import BY_CLASS
from esper_es.domain.envelope import Envelope
from esper_es.domain.facts import (
    AlphaChanged,
    DecisionReceived,
    DecisionSettled,
    LayerAdded,
    LayerRemoved,
    LayerWidthModified,
    ModelRegistered,
    RolledBack,
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
    WatchClosed,
    WatchOpened,
)
from esper_es.projections.audit.log_tables import history
from esper_es.projections.audit.writer import Writer

_SUBJECTS: Final[Mapping[type, Callable[[Any], str]]] = {
    ModelRegistered: lambda fact: fact.name,
    StateCaptured: lambda fact: f"version {fact.of_version}",
    RolledBack: lambda fact: f"version {fact.to_version}",
    LayerAdded: lambda fact: fact.layer_name,
    LayerRemoved: lambda fact: fact.layer_name,
    LayerWidthModified: lambda fact: fact.layer_name,
    SkipConnectionAdded: lambda fact: f"{fact.from_layer} -> {fact.to_layer}",
    SkipConnectionRemoved: lambda fact: f"{fact.from_layer} -> {fact.to_layer}",
    SurgeryRefused: lambda fact: fact.target,
    SeedPlanted: lambda fact: fact.seed,
    SeedInherited: lambda fact: fact.seed,
    SeedGerminated: lambda fact: fact.seed,
    SeedAdvanced: lambda fact: fact.seed,
    AlphaChanged: lambda fact: fact.seed,
    SeedCulled: lambda fact: fact.seed,
    SeedFossilized: lambda fact: fact.seed,
    WatchOpened: lambda fact: f"version {fact.subject_version}",
    WatchClosed: lambda fact: f"version {fact.subject_version}",
    DecisionReceived: lambda fact: fact.decision.decision_id,
    DecisionSettled: lambda fact: fact.decision_id,
}
"""What a fact is about; facts about the whole model are left out."""


def add_history(writer: Writer, envelope: Envelope) -> None:
    """Write who recorded what, when and why."""
    fact, cause = envelope.fact, envelope.cause
    subject = _SUBJECTS.get(type(fact))
    writer.add(
        history,
        envelope,
        fact=BY_CLASS[type(fact)].name,
        subject=None if subject is None else subject(fact),
        edits=len(getattr(fact, "edits", ())),
        at=envelope.at,
        epoch=envelope.epoch,
        step=envelope.step,
        actor=cause.actor,
        reasoning=cause.reasoning,
        decision_id=cause.decision_id,
        confidence=cause.confidence,
        caused_by_version=cause.caused_by,
    )
