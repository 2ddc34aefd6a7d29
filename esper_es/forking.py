"""Models that begin where another one stands."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve

from esper_es.domain.envelope import Envelope
from esper_es.domain.errors import UsageError
from esper_es.domain.facts import (
    Fact,
    ModelRegistered,
    SeedInherited,
    StateCaptured,
)
from esper_es.domain.lifecycle import ABSENT, PERMANENT
from esper_es.domain.state import ModelState, Seed
from esper_es.projections.metrics import Surgery
from esper_es.rebuilding import edits_by_version, inherited_edits


def forked(state: ModelState, history: Sequence[Envelope], name: str) -> tuple[Fact, ...]:
    """Return the first facts of a model that begins where another is.

    Raises:
        UsageError: if that version can't be restored exactly.
    """
    source = state.restorable.get(state.version)
    if source is None:
        versions = ", ".join(str(v) for v in sorted(state.restorable)[-5:]) or "none"
        raise UsageError(
            f"version {state.version} of {state.name!r} has no capture to fork from; the last that have one: {versions}"
        )
    path = source.lineage.edits_of
    before = path[: len(path) - len(source.edits_of)]
    edits = edits_by_version(history)
    registered = next(e.fact for e in history if isinstance(e.fact, ModelRegistered))
    birth = next(e.fact for e in history if e.version == source.capture and isinstance(e.fact, StateCaptured))
    captured = (
        state.restorable[source.capture].lineage if source.capture in state.restorable else source.lineage
    )
    base = evolve(registered.base, memory_bytes=captured.memory_bytes, graph_depth=captured.graph_depth)
    facts: list[Fact] = [
        evolve(
            registered,
            name=name,
            base=base,
            edits=(*inherited_edits(history), *(edit for v in before for edit in edits[v])),
            forked_from=(state.name, state.version),
        ),
        evolve(birth, of_version=1, reason=f"fork of {state.name} at version {state.version}"),
    ]
    inherited = [_inherited(state, seed) for seed in state.seeds.values()]
    facts += inherited
    for envelope in history:
        if envelope.version in source.edits_of and isinstance(envelope.fact, Surgery):
            facts.append(evolve(envelope.fact, base_capture=2))
    if len(facts) != 2 + len(inherited) + len(source.edits_of):
        raise UsageError(
            f"version {state.version} of {state.name!r} is a step of a seed's life; fork from a capture instead: "
            f"version {source.capture} is the one before it"
        )
    return tuple(facts)


def _inherited(state: ModelState, seed: Seed) -> SeedInherited:
    mode = state.lifecycle.mode(seed.stage)
    outcome = "growing"
    if mode == PERMANENT:
        outcome = "fossilized"
    elif mode == ABSENT:
        outcome = "dormant" if seed.kernel is None else "culled"
    return SeedInherited(
        seed=seed.id,
        layer=seed.layer,
        stage=seed.stage,
        outcome=outcome,
        kernel=seed.kernel,
        arguments=seed.arguments,
        path=seed.path,
        alpha=seed.alpha,
        schedule=seed.schedule,
        epochs_in_stage=state.epoch - seed.entered_epoch,
        epochs_in_ramp=state.epoch - seed.ramp_epoch if seed.schedule is not None else 0,
    )
