"""What version of a model can be restored, and by what: worked out fact by fact."""

from __future__ import annotations

from attrs import evolve

from esper_es.domain.facts import EditingFact, StructuralFact
from esper_es.domain.state import ModelState, Restorable


def exact_after(state: ModelState, fact: StructuralFact) -> ModelState:
    """Mark this version as exact: the capture right before it, or an earlier one that still holds, and its edits."""
    if fact.base_capture is None:
        return standing_on(state, fact)
    here = Restorable(
        version=state.version,
        capture=fact.base_capture,
        edits_of=(state.version,),
        lineage=state.lineage,
        epoch=state.epoch,
    )
    return evolve(state, restorable={**state.restorable, state.version: here}, standing=here)


def standing_on(state: ModelState, fact: EditingFact | None = None) -> ModelState:
    """Say that the run is what it was at the version before, but for the edits of ``fact``.

    Such a version can be restored as the one before can: by the same capture and, after it, these edits.
    """
    standing = state.standing
    if standing is None:
        return state
    edits_of = standing.edits_of if fact is None or not fact.edits else (*standing.edits_of, state.version)
    here = evolve(standing, edits_of=edits_of)
    if state.version - 1 in state.restorable:
        return stands_exactly(state, here)
    return evolve(state, standing=standing_at(state, here))


def stands_exactly(state: ModelState, standing: Restorable) -> ModelState:
    """Say that this version is restored as ``standing`` says."""
    here = standing_at(state, standing)
    return evolve(state, restorable={**state.restorable, state.version: here}, standing=here)


def standing_at(state: ModelState, standing: Restorable) -> Restorable:
    """Return how to get this version back by what got an earlier one back."""
    return evolve(standing, version=state.version, lineage=state.lineage, epoch=state.epoch)


def restored(state: ModelState, source: Restorable) -> ModelState:
    """Take the lineage back; moments of the log's own clock move along, for it never runs backwards."""
    shift = state.epoch - source.epoch
    lineage = evolve(
        source.lineage,
        seeds={
            name: evolve(seed, entered_epoch=seed.entered_epoch + shift, ramp_epoch=seed.ramp_epoch + shift)
            for name, seed in source.lineage.seeds.items()
        },
        watches=tuple(
            evolve(watch, until_epoch=watch.until_epoch + shift) for watch in source.lineage.watches
        ),
    )
    here = evolve(source, version=state.version, lineage=lineage, epoch=state.epoch)
    restorable = {**state.restorable, state.version: here}
    return evolve(state, lineage=lineage, restorable=restorable, standing=here)
