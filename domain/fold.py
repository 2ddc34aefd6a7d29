"""Folding facts into the state: one function per fact, found by type."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from attrs import evolve

from esper_es.domain.edits import AddModule
from esper_es.domain.envelope import Envelope
from esper_es.domain.errors import LedgerError
from esper_es.domain.evolution import evolved
from esper_es.domain.facts import (
    AlphaChanged,
    CapturesReleased,
    DecisionReceived,
    DecisionSettled,
    EpochEnded,
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
    StructuralFact,
    SurgeryRefused,
    TrainingContinued,
    WatchClosed,
    WatchOpened,
)
from esper_es.domain.standing import exact_after, restored, standing_at, standing_on, stands_exactly
from esper_es.domain.state import CapturePoint, Lineage, ModelState, Restorable, Seed, Watch


def fold(state: ModelState | None, envelopes: Iterable[Envelope]) -> ModelState | None:
    """Return the state after ``envelopes``.

    Raises:
        LedgerError: if versions have a gap, a fact comes before the registration, or a fact does not fit
            those before it.
    """
    for envelope in envelopes:
        state = _folded(state, envelope)
    return state


def _folded(state: ModelState | None, envelope: Envelope) -> ModelState:
    expected = 1 if state is None else state.version + 1
    if envelope.version != expected:
        raise LedgerError(f"the log has version {envelope.version} where version {expected} belongs")
    if isinstance(envelope.fact, ModelRegistered):
        if state is not None:
            raise LedgerError(f"version {envelope.version} registers model {state.name!r} a second time")
        return _registered(envelope, envelope.fact)
    if state is None:
        raise LedgerError(f"the log begins with {type(envelope.fact).__name__}, not with ModelRegistered")
    unmoved = envelope.step == state.step
    moved = evolve(
        state,
        version=envelope.version,
        epoch=envelope.epoch,
        step=envelope.step,
        standing=state.standing if unmoved else None,
        lineage=evolve(state.lineage, trained_steps=state.lineage.trained_steps + envelope.step - state.step),
    )
    try:
        return _FOLDS[type(envelope.fact)](moved, envelope.fact)
    except (KeyError, ValueError) as error:
        raise LedgerError(
            f"version {envelope.version} of model {state.name!r} ({type(envelope.fact).__name__}) does not "
            f"fit the facts before it: {error!r}"
        ) from error


def _registered(envelope: Envelope, fact: ModelRegistered) -> ModelState:
    architecture = evolved(fact.base.architecture, fact.edits)
    return ModelState(
        id=envelope.originator_id,
        name=fact.name,
        version=envelope.version,
        base=fact.base,
        constraints=fact.constraints,
        capture_policy=fact.capture,
        watch_policy=fact.watch,
        lifecycle=fact.lifecycle,
        environment=fact.environment,
        lineage=Lineage(
            architecture=architecture, memory_bytes=fact.base.memory_bytes, graph_depth=fact.base.graph_depth
        ),
        epoch=envelope.epoch,
        step=envelope.step,
    )


def _resumed(state: ModelState, fact: RunResumed) -> ModelState:
    state = evolve(state, environment=fact.environment)
    if state.standing is None or fact.fresh:
        return evolve(state, standing=None)
    if fact.left_out:
        return evolve(state, standing=standing_at(state, state.standing))
    return stands_exactly(state, state.standing)


def _captured(state: ModelState, fact: StateCaptured) -> ModelState:
    point = CapturePoint(
        version=state.version,
        of_version=fact.of_version,
        manifest=fact.manifest,
        model_fingerprint=fact.model_fingerprint,
    )
    here = Restorable(
        version=state.version, capture=state.version, edits_of=(), lineage=state.lineage, epoch=state.epoch
    )
    restorable = {**state.restorable, state.version: here}
    restorable.setdefault(fact.of_version, evolve(here, version=fact.of_version))
    captures = {**state.captures, point.version: point}
    return evolve(state, captures=captures, restorable=restorable, standing=here)


def _released(state: ModelState, fact: CapturesReleased) -> ModelState:
    gone = set(fact.versions)
    captures = {v: point for v, point in state.captures.items() if v not in gone}
    restorable = {v: r for v, r in state.restorable.items() if r.capture not in gone}
    for version, point in captures.items():
        restorable.setdefault(point.of_version, evolve(restorable[version], version=point.of_version))
    kept = evolve(
        state,
        captures=captures,
        restorable=restorable,
        standing=None if state.standing is None or state.standing.capture in gone else state.standing,
    )
    return standing_on(kept)


def _structural(state: ModelState, fact: StructuralFact) -> ModelState:
    lineage = evolve(
        state.lineage,
        architecture=evolved(state.architecture, fact.edits),
        edits_of=(*state.lineage.edits_of, state.version),
        memory_bytes=fact.effects.memory_bytes,
        graph_depth=fact.effects.graph_depth,
    )
    return evolve(state, lineage=lineage)


def _surgery_counted(state: ModelState) -> ModelState:
    same = state.last_surgery_epoch == state.epoch
    return evolve(
        state,
        last_surgery_epoch=state.epoch,
        surgeries_this_epoch=state.surgeries_this_epoch + 1 if same else 1,
    )


def _surgery(
    state: ModelState,
    fact: LayerAdded | LayerRemoved | LayerWidthModified | SkipConnectionAdded | SkipConnectionRemoved,
) -> ModelState:
    state = _surgery_counted(_structural(state, fact))
    lineage = evolve(
        state.lineage,
        layers_added=state.lineage.layers_added + isinstance(fact, LayerAdded),
        layers_removed=state.lineage.layers_removed + isinstance(fact, LayerRemoved),
    )
    return exact_after(evolve(state, lineage=lineage), fact)


def _refused(state: ModelState, fact: SurgeryRefused) -> ModelState:
    return standing_on(state)


def _planted(state: ModelState, fact: SeedPlanted) -> ModelState:
    seed = Seed(id=fact.seed, layer=fact.layer, stage=fact.stage, entered_epoch=state.epoch)
    return standing_on(_with_seed(state, seed))


def _inherited(state: ModelState, fact: SeedInherited) -> ModelState:
    seed = Seed(
        id=fact.seed,
        layer=fact.layer,
        stage=fact.stage,
        entered_epoch=state.epoch - fact.epochs_in_stage,
        kernel=fact.kernel,
        arguments=fact.arguments,
        path=fact.path,
        alpha=fact.alpha,
        schedule=fact.schedule,
        ramp_epoch=state.epoch - fact.epochs_in_ramp,
    )
    return standing_on(_with_seed(state, seed))


def _germinated(state: ModelState, fact: SeedGerminated) -> ModelState:
    state = _structural(state, fact)
    slot = next((edit.path for edit in fact.edits if isinstance(edit, AddModule)), None)
    if slot is None:
        raise ValueError(f"seed {fact.seed!r} germinated without a module")
    seed = evolve(
        state.seeds[fact.seed],
        stage=fact.stage,
        entered_epoch=state.epoch,
        kernel=fact.kernel,
        arguments=fact.arguments,
        path=slot,
        alpha=0.0,
        schedule=None,
    )
    return exact_after(_with_seed(state, seed), fact)


def _advanced(state: ModelState, fact: SeedAdvanced) -> ModelState:
    seed = evolve(state.seeds[fact.seed], stage=fact.stage, entered_epoch=state.epoch)
    if fact.schedule is not None:
        seed = evolve(seed, schedule=fact.schedule, ramp_epoch=state.epoch)
    if state.lifecycle.initial == fact.stage:
        seed = evolve(seed, kernel=None, arguments={}, schedule=None)
    return standing_on(_with_seed(_edited(state, fact), seed), fact)


def _alpha_changed(state: ModelState, fact: AlphaChanged) -> ModelState:
    seed = evolve(state.seeds[fact.seed], alpha=fact.alpha)
    if fact.schedule is not None:
        seed = evolve(seed, schedule=fact.schedule, ramp_epoch=state.epoch)
    return standing_on(_with_seed(_edited(state, fact), seed), fact)


def _edited(state: ModelState, fact: SeedAdvanced | AlphaChanged) -> ModelState:
    if not fact.edits:
        return state
    lineage = evolve(
        state.lineage,
        architecture=evolved(state.architecture, fact.edits),
        edits_of=(*state.lineage.edits_of, state.version),
    )
    return evolve(state, lineage=lineage)


def _culled(state: ModelState, fact: SeedCulled) -> ModelState:
    seed = evolve(
        state.seeds[fact.seed],
        stage=fact.stage,
        entered_epoch=state.epoch,
        path=None,
        alpha=0.0,
        schedule=None,
    )
    return exact_after(_with_seed(_structural(state, fact), seed), fact)


def _fossilized(state: ModelState, fact: SeedFossilized) -> ModelState:
    seed = evolve(
        state.seeds[fact.seed],
        stage=fact.stage,
        entered_epoch=state.epoch,
        path=fact.layer,
        schedule=None,
    )
    return exact_after(_with_seed(_structural(state, fact), seed), fact)


def _epoch_ended(state: ModelState, fact: EpochEnded) -> ModelState:
    lineage = evolve(state.lineage, metrics=fact.metrics, trained_epochs=state.lineage.trained_epochs + 1)
    return standing_on(evolve(state, epoch=fact.epoch, lineage=lineage))


def _watch_opened(state: ModelState, fact: WatchOpened) -> ModelState:
    watch = Watch(
        subject_version=fact.subject_version,
        metric=fact.metric,
        mode=fact.mode,
        baseline=fact.baseline,
        minimum_score=fact.minimum_score,
        required_score=fact.required_score,
        until_epoch=fact.until_epoch,
    )
    lineage = evolve(state.lineage, watches=(*state.lineage.watches, watch))
    return standing_on(evolve(state, lineage=lineage))


def _watch_closed(state: ModelState, fact: WatchClosed) -> ModelState:
    watches = tuple(w for w in state.lineage.watches if w.subject_version != fact.subject_version)
    return standing_on(evolve(state, lineage=evolve(state.lineage, watches=watches)))


def _rolled_back(state: ModelState, fact: RolledBack) -> ModelState:
    there = restored(state, state.restorable[fact.to_version])
    if not fact.left_out and not fact.fresh:
        return there
    return evolve(there, restorable=state.restorable, standing=None if fact.fresh else there.standing)


def _decision_received(state: ModelState, fact: DecisionReceived) -> ModelState:
    return standing_on(state)


def _decision_settled(state: ModelState, fact: DecisionSettled) -> ModelState:
    return standing_on(state)


def _training_continued(state: ModelState, fact: TrainingContinued) -> ModelState:
    if state.standing is None or not fact.aside:
        return evolve(state, standing=None)
    return evolve(state, standing=standing_at(state, state.standing))


def _with_seed(state: ModelState, seed: Seed) -> ModelState:
    lineage = evolve(state.lineage, seeds={**state.lineage.seeds, seed.id: seed})
    return evolve(state, lineage=lineage)


_FOLDS: dict[type, Callable[[ModelState, Any], ModelState]] = {
    RunResumed: _resumed,
    StateCaptured: _captured,
    CapturesReleased: _released,
    LayerAdded: _surgery,
    LayerRemoved: _surgery,
    LayerWidthModified: _surgery,
    SkipConnectionAdded: _surgery,
    SkipConnectionRemoved: _surgery,
    SurgeryRefused: _refused,
    SeedPlanted: _planted,
    SeedInherited: _inherited,
    SeedGerminated: _germinated,
    SeedAdvanced: _advanced,
    AlphaChanged: _alpha_changed,
    SeedCulled: _culled,
    SeedFossilized: _fossilized,
    EpochEnded: _epoch_ended,
    TrainingContinued: _training_continued,
    WatchOpened: _watch_opened,
    WatchClosed: _watch_closed,
    RolledBack: _rolled_back,
    DecisionReceived: _decision_received,
    DecisionSettled: _decision_settled,
}
