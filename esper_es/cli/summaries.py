"""Facts in a few words, one function per fact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from esper_es.cli.layout import count, signed, size
from esper_es.domain.evolution import evolved
from esper_es.domain.facts import (
    AlphaChanged,
    CapturesReleased,
    DecisionReceived,
    DecisionSettled,
    Effects,
    EpochEnded,
    Fact,
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
    SurgeryRefused,
    TrainingContinued,
    WatchClosed,
    WatchOpened,
)


def summary_of(fact: Fact) -> str:
    """Return what happened, in a few words on one line."""
    return SUMMARIES[type(fact)](fact)


def numbers(values: Mapping[str, float]) -> str:
    """Return named numbers, e.g. ``loss 0.31, val_acc 0.93``."""
    return ", ".join(f"{name} {value:.6g}" for name, value in sorted(values.items()))


def place(path: str) -> str:
    """Return a module path, and the root by a word."""
    return path or "(root)"


def _growth(effects: Effects) -> str:
    return f"{signed(effects.parameters_after - effects.parameters_before)} parameters"


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _overridden(why: str | None) -> str:
    return "" if why is None else f", gate overridden: {why}"


def _registered(fact: ModelRegistered) -> str:
    architecture = evolved(fact.base.architecture, fact.edits)
    made = "" if fact.base.blueprint is None else f", blueprint {fact.base.blueprint}"
    fork = "" if fact.forked_from is None else f", forked from {fact.forked_from[0]} {fact.forked_from[1]}"
    content = (
        f"{count(len(architecture.nodes), 'module')}, {count(architecture.parameter_count, 'parameter')}"
    )
    return f"registered {fact.name}: {content}{made}{fork}"


def _resumed(fact: RunResumed) -> str:
    where = f"torch {fact.environment.torch} on {fact.environment.device}"
    return f"a process took the run up again, {where}{_unrestored(fact)}"


def _unrestored(fact: RunResumed | RolledBack) -> str:
    anew = f"; begun anew: {', '.join(fact.fresh)}" if fact.fresh else ""
    return f"{anew}; generators left out: {', '.join(fact.left_out)}" if fact.left_out else anew


def _captured(fact: StateCaptured) -> str:
    content = f"{count(fact.tensors, 'tensor')}, {size(fact.nbytes)}"
    return f"captured the state of version {fact.of_version} ({fact.reason}): {content}"


def _released(fact: CapturesReleased) -> str:
    return f"gave up the captures {', '.join(map(str, fact.versions))}"


def _rolled_back(fact: RolledBack) -> str:
    discarded = f"{count(fact.epochs_discarded, 'epoch')} and {count(fact.steps_discarded, 'step')} discarded"
    way = f"from {fact.from_version} back to {fact.to_version} ({fact.trigger})"
    return f"{way}, {discarded}{_unrestored(fact)}{_because(fact.reason)}"


def _layer_added(fact: LayerAdded) -> str:
    what = f"added {fact.layer_name} ({fact.kind}) after {place(fact.after_layer)}, {fact.connection_type}"
    return f"{what}: {_growth(fact.effects)}"


def _layer_removed(fact: LayerRemoved) -> str:
    adapter = " with an adapter" if fact.adapter_added else ""
    fit = "" if fact.bridge_r2 is None else f", R2 {fact.bridge_r2:.3f}"
    what = f"removed {fact.layer_name}, bridge {fact.bridge_strategy}{adapter}{fit}"
    return f"{what}: {_growth(fact.effects)}"


def _width_modified(fact: LayerWidthModified) -> str:
    verb = "widened" if fact.new_width > fact.old_width else "narrowed"
    what = f"{verb} {fact.layer_name} from {fact.old_width} to {fact.new_width}"
    return f"{what}: {_growth(fact.effects)}, {fact.initialization}"


def _skip_added(fact: SkipConnectionAdded) -> str:
    through = "" if fact.projection is None else f" through {fact.projection}"
    what = f"joined {place(fact.from_layer)} to {place(fact.to_layer)}{through} ({fact.connection_type})"
    return f"{what}: {_growth(fact.effects)}"


def _skip_removed(fact: SkipConnectionRemoved) -> str:
    return f"parted {place(fact.from_layer)} from {place(fact.to_layer)}: {_growth(fact.effects)}"


def _refused(fact: SurgeryRefused) -> str:
    return f"refused {fact.operation} on {place(fact.target)} by {fact.check}: {fact.reason}"


def _inherited(fact: SeedInherited) -> str:
    kernel = "" if fact.kernel is None else f", {fact.kernel}"
    return f"inherited seed {fact.seed} after {fact.layer} ({fact.stage}{kernel})"


def _planted(fact: SeedPlanted) -> str:
    return f"planted seed {fact.seed} after {place(fact.layer)} ({fact.stage})"


def _germinated(fact: SeedGerminated) -> str:
    what = f"seed {fact.seed} germinated as {fact.kernel} ({fact.stage}){_overridden(fact.override)}"
    return f"{what}: {_growth(fact.effects)}"


def _advanced(fact: SeedAdvanced) -> str:
    gate = f" by {fact.gate}" if fact.gate else ""
    return f"seed {fact.seed} from {fact.from_stage} to {fact.stage}{gate}{_overridden(fact.override)}"


def _alpha_changed(fact: AlphaChanged) -> str:
    by = "" if fact.schedule is None else " by hand"
    return f"seed {fact.seed} blends with alpha {fact.alpha:.4g}{by}"


def _culled(fact: SeedCulled) -> str:
    return f"seed {fact.seed} culled in {fact.from_stage}{_because(fact.reason)}"


def _fossilized(fact: SeedFossilized) -> str:
    layer = "" if fact.layer is None else f" as layer {fact.layer}"
    return f"seed {fact.seed} fossilized{layer}{_overridden(fact.override)}"


def _epoch_ended(fact: EpochEnded) -> str:
    metrics = f": {numbers(fact.metrics)}" if fact.metrics else ""
    return f"epoch {fact.epoch} ended at step {fact.step}{metrics}"


def _training_continued(fact: TrainingContinued) -> str:
    if fact.moved:
        return f"changed without an optimizer step: {', '.join(fact.moved)}"
    return f"training went on with step {fact.step}"


def _watch_opened(fact: WatchOpened) -> str:
    judge = f"{fact.metric} ({fact.mode}), baseline {fact.baseline:.6g}"
    return f"version {fact.subject_version} is on trial until epoch {fact.until_epoch} by {judge}"


def _watch_closed(fact: WatchClosed) -> str:
    return f"trial of version {fact.subject_version} ended, {fact.outcome}: {fact.reason}"


def _decision_received(fact: DecisionReceived) -> str:
    decision = fact.decision
    asked = f"{decision.adaptation_type} on {decision.layer_name}, confidence {decision.confidence:g}"
    return f"decision {decision.decision_id} by {decision.actor}: {asked}"


def _decision_settled(fact: DecisionSettled) -> str:
    return f"decision {fact.decision_id} {fact.outcome}{_because(fact.reason)}"


SUMMARIES: Final[Mapping[type, Callable[[Any], str]]] = {
    ModelRegistered: _registered,
    RunResumed: _resumed,
    StateCaptured: _captured,
    CapturesReleased: _released,
    RolledBack: _rolled_back,
    LayerAdded: _layer_added,
    LayerRemoved: _layer_removed,
    LayerWidthModified: _width_modified,
    SkipConnectionAdded: _skip_added,
    SkipConnectionRemoved: _skip_removed,
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
    DecisionReceived: _decision_received,
    DecisionSettled: _decision_settled,
}
"""One for every fact of ``domain/catalog.py``."""
