"""How the life of a seed becomes rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from sqlalchemy import bindparam, select

from esper_es.domain.edits import AddModule
from esper_es.domain.envelope import Envelope
from esper_es.domain.facts import (
    AlphaChanged,
    SeedAdvanced,
    SeedCulled,
    SeedFossilized,
    SeedGerminated,
    SeedInherited,
    SeedPlanted,
)
from esper_es.projections.audit.log_tables import models
from esper_es.projections.audit.seed_tables import gate_evidence, seed_alphas, seed_transitions
from esper_es.projections.audit.stretches import SEEDS, Content, Entry, attributed
from esper_es.projections.audit.structure import does_not_fit, follow_edits
from esper_es.projections.audit.surgery_facts import change_structure
from esper_es.projections.audit.writer import Writer, model_key

_INITIAL_STAGE = select(models.c.initial_stage).where(models.c.model_id == bindparam("model"))
_WITHOUT_KERNEL: Content = {
    "kernel": None,
    "arguments": {},
    "path": None,
    "germinated_version": None,
    "outcome": "dormant",
    "ended_version": None,
    "end_reason": None,
}


def plant_seed(writer: Writer, envelope: Envelope, fact: SeedPlanted) -> None:
    _add_transition(writer, envelope, seed=fact.seed, change="planted", from_stage=None, to_stage=fact.stage)
    content = {"layer": fact.layer, "stage": fact.stage, **_WITHOUT_KERNEL}
    _write_seed(writer, envelope, fact.seed, {}, content)


def inherit_seed(writer: Writer, envelope: Envelope, fact: SeedInherited) -> None:
    schedule = attrs.asdict(fact.schedule) if fact.schedule else None
    _add_transition(
        writer,
        envelope,
        seed=fact.seed,
        change="inherited",
        from_stage=None,
        to_stage=fact.stage,
        kernel=fact.kernel,
        schedule=schedule,
    )
    inherited = {
        **_WITHOUT_KERNEL,
        "layer": fact.layer,
        "stage": fact.stage,
        "kernel": fact.kernel,
        "arguments": dict(fact.arguments),
        "path": fact.path,
        "outcome": fact.outcome,
    }
    _write_seed(writer, envelope, fact.seed, {}, inherited)
    if fact.path is not None:
        writer.add(seed_alphas, envelope, seed=fact.seed, alpha=fact.alpha, schedule=None)


def germinate_seed(writer: Writer, envelope: Envelope, fact: SeedGerminated) -> None:
    before = _seed(writer, envelope, fact.seed)
    content = before[fact.seed].content
    _add_transition(
        writer,
        envelope,
        seed=fact.seed,
        change="germinated",
        from_stage=content["stage"],
        to_stage=fact.stage,
        gate=fact.gate,
        override=fact.override,
        kernel=fact.kernel,
    )
    _add_evidence(writer, envelope, fact.evidence, {})
    germinated = {
        **content,
        "stage": fact.stage,
        "kernel": fact.kernel,
        "arguments": dict(fact.arguments),
        "path": next((edit.path for edit in fact.edits if isinstance(edit, AddModule)), None),
        "germinated_version": envelope.version,
        "outcome": "growing",
        "ended_version": None,
        "end_reason": None,
    }
    _write_seed(writer, envelope, fact.seed, before, germinated)
    details = {"kernel": fact.kernel, "arguments": dict(fact.arguments)}
    change_structure(writer, envelope, fact, "germinate_seed", fact.seed, details)


def advance_seed(writer: Writer, envelope: Envelope, fact: SeedAdvanced) -> None:
    before = _seed(writer, envelope, fact.seed)
    _add_transition(
        writer,
        envelope,
        seed=fact.seed,
        change="advanced",
        from_stage=fact.from_stage,
        to_stage=fact.stage,
        gate=fact.gate,
        epochs_in_stage=fact.epochs_in_stage,
        override=fact.override,
        schedule=attrs.asdict(fact.schedule) if fact.schedule else None,
    )
    _add_evidence(writer, envelope, fact.evidence, fact.thresholds)
    content = {**before[fact.seed].content, "stage": fact.stage}
    if fact.stage == _initial_stage(writer, envelope):
        content |= _WITHOUT_KERNEL
    _write_seed(writer, envelope, fact.seed, before, content)
    follow_edits(writer, envelope, fact.edits)


def change_alpha(writer: Writer, envelope: Envelope, fact: AlphaChanged) -> None:
    schedule = attrs.asdict(fact.schedule) if fact.schedule else None
    writer.add(seed_alphas, envelope, seed=fact.seed, alpha=fact.alpha, schedule=schedule)
    follow_edits(writer, envelope, fact.edits)


def cull_seed(writer: Writer, envelope: Envelope, fact: SeedCulled) -> None:
    before = _seed(writer, envelope, fact.seed)
    _add_transition(
        writer,
        envelope,
        seed=fact.seed,
        change="culled",
        from_stage=fact.from_stage,
        to_stage=fact.stage,
        reason=fact.reason,
    )
    culled = {
        **before[fact.seed].content,
        "stage": fact.stage,
        "path": None,
        "outcome": "culled",
        "ended_version": envelope.version,
        "end_reason": fact.reason,
    }
    _write_seed(writer, envelope, fact.seed, before, culled)
    change_structure(writer, envelope, fact, "cull_seed", fact.seed, {"reason": fact.reason})


def fossilize_seed(writer: Writer, envelope: Envelope, fact: SeedFossilized) -> None:
    before = _seed(writer, envelope, fact.seed)
    _add_transition(
        writer,
        envelope,
        seed=fact.seed,
        change="fossilized",
        from_stage=fact.from_stage,
        to_stage=fact.stage,
        gate=fact.gate,
        epochs_in_stage=fact.epochs_in_stage,
        override=fact.override,
    )
    _add_evidence(writer, envelope, fact.evidence, fact.thresholds)
    fossilized = {
        **before[fact.seed].content,
        "stage": fact.stage,
        "path": fact.layer,
        "outcome": "fossilized",
        "ended_version": envelope.version,
        "end_reason": None,
    }
    _write_seed(writer, envelope, fact.seed, before, fossilized)
    change_structure(writer, envelope, fact, "fossilize_seed", fact.seed, {"layer": fact.layer})


def _add_transition(
    writer: Writer,
    envelope: Envelope,
    *,
    gate: str = "",
    epochs_in_stage: int | None = None,
    override: str | None = None,
    reason: str | None = None,
    kernel: str | None = None,
    schedule: Mapping[str, Any] | None = None,
    **values: str | None,
) -> None:
    writer.add(
        seed_transitions,
        envelope,
        gate=gate,
        epochs_in_stage=epochs_in_stage,
        override=override,
        reason=reason,
        kernel=kernel,
        schedule=schedule,
        **values,
    )


def _add_evidence(
    writer: Writer, envelope: Envelope, evidence: Mapping[str, float], thresholds: Mapping[str, float]
) -> None:
    for name in sorted({*evidence, *thresholds}):
        observed, required = evidence.get(name), thresholds.get(name)
        writer.add(gate_evidence, envelope, evidence=name, observed=observed, required=required)


def _seed(writer: Writer, envelope: Envelope, seed: str) -> dict[str, Entry]:
    """Return what is true of a seed now, by its id."""
    found = SEEDS.now_of(writer.write(), model_key(envelope), seed)
    if seed not in found:
        raise does_not_fit(envelope, f"they know no seed {seed!r}")
    return found


def _write_seed(
    writer: Writer, envelope: Envelope, seed: str, before: Mapping[str, Entry], content: Content
) -> None:
    after = attributed(before, {seed: content}, envelope.version)
    SEEDS.replace(writer.write(), model_key(envelope), envelope.version, before, after)


def _initial_stage(writer: Writer, envelope: Envelope) -> str | None:
    return writer.write().scalar(_INITIAL_STAGE, {"model": model_key(envelope)})
