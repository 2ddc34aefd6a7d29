"""Commands of the clock: epochs, watch windows, and the life of seeds that goes on by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import frozen

from esper_es.domain.canonical import finite_numbers
from esper_es.domain.edits import SetAttribute, SetScalar
from esper_es.domain.errors import Refused, UsageError
from esper_es.domain.facts import (
    AlphaChanged,
    CapturesReleased,
    EpochEnded,
    Fact,
    SeedAdvanced,
    TrainingContinued,
    WatchClosed,
)
from esper_es.domain.facts.clock import ASIDE
from esper_es.domain.lifecycle import BLENDING, check_gate
from esper_es.domain.policies import score
from esper_es.domain.state import ModelState, Seed, Watch


@frozen
class Verdict:
    """What the clock says about a surgery on trial."""

    closing: WatchClosed
    back_to: int | None


def end_epoch(state: ModelState, metrics: Mapping[str, float], step: int) -> EpochEnded:
    """Record the end of an epoch.

    Raises:
        UsageError: if a metric is not a finite number, or the watched one is missing.
    """
    try:
        finite = finite_numbers(metrics, "metrics")
    except ValueError as error:
        raise UsageError(f"epoch_end: {error}; nothing was recorded") from None
    for watch in state.lineage.watches:
        if watch.metric not in finite:
            raise UsageError(
                f"epoch_end: the surgery of version {watch.subject_version} is watched by metric "
                f"{watch.metric!r}, which is missing; got {sorted(finite)}"
            )
    return EpochEnded(epoch=state.epoch + 1, step=step, metrics=finite)


def judge_watches(state: ModelState) -> tuple[Verdict, ...]:
    """Close the watches whose metric fell too far, or whose window has ended, after ``end_epoch``.

    At most one verdict rolls back: that of the earliest surgery, for it undoes the later ones too; it comes
    last.
    """
    verdicts: list[Verdict] = []
    for watch in sorted(state.lineage.watches, key=lambda w: w.subject_version):
        verdict = _judge(state, watch)
        if verdict is None:
            continue
        verdicts.append(verdict)
        if verdict.back_to is not None:
            break
    return tuple(verdicts)


def _judge(state: ModelState, watch: Watch) -> Verdict | None:
    observed = state.lineage.metrics[watch.metric]
    reached = score(observed, watch.baseline, watch.mode)
    ended = state.epoch >= watch.until_epoch
    if reached < watch.minimum_score:
        reason = f"rollback_on_performance_drop: score {reached:.4g} below {watch.minimum_score:g}"
    elif ended and reached < watch.required_score:
        reason = f"required_validation_score: score {reached:.4g} below {watch.required_score:g}"
    elif ended:
        closing = WatchClosed(
            subject_version=watch.subject_version,
            outcome="kept",
            observed=observed,
            score=reached,
            reason=f"score {reached:.4g} at the end of the window",
        )
        return Verdict(closing, None)
    else:
        return None
    return _against(state, watch, observed, reached, f"{reason}{_beside(state, watch)}")


def _beside(state: ModelState, watch: Watch) -> str:
    """Name the seeds whose blending may have moved the metric too: alpha moves after each epoch's metrics are taken."""
    subject = state.restorable.get(watch.subject_version)
    then = {} if subject is None else subject.lineage.seeds
    blending = [
        seed.id
        for seed in state.seeds.values()
        if state.lifecycle.mode(seed.stage) == BLENDING or seed.alpha != then.get(seed.id, seed).alpha
    ]
    return f"; meanwhile seeds were blending: {', '.join(blending)}" if blending else ""


def _against(state: ModelState, watch: Watch, observed: float, reached: float, reason: str) -> Verdict:
    """Roll back when the state before the surgery can be restored; otherwise only say so."""
    before = watch.subject_version - 1
    exact = before in state.restorable
    closing = WatchClosed(
        subject_version=watch.subject_version,
        outcome="rolled_back" if exact else "failed_but_kept",
        observed=observed,
        score=reached,
        reason=reason if exact else f"{reason}; there is no capture from before it to go back to",
    )
    return Verdict(closing, before if exact else None)


def tick_seeds(state: ModelState) -> tuple[Fact, ...]:
    """Move alpha and take the steps of seeds' lives that the clock alone decides, after ``end_epoch``."""
    facts: list[Fact] = []
    for seed in state.seeds.values():
        facts += _tick(state, seed)
    return tuple(facts)


def _tick(state: ModelState, seed: Seed) -> list[Fact]:
    facts: list[Fact] = []
    evidence: dict[str, float] = {}
    if state.lifecycle.mode(seed.stage) == BLENDING and seed.schedule is not None and seed.path is not None:
        elapsed = state.epoch - seed.ramp_epoch
        alpha = seed.schedule.alpha(elapsed)
        evidence["alpha_progress"] = seed.schedule.progress(elapsed)
        if alpha != seed.alpha:
            facts.append(
                AlphaChanged(seed=seed.id, alpha=alpha, edits=(SetScalar(f"{seed.path}.alpha", alpha),))
            )
    for transition in state.lifecycle.transitions:
        if (transition.trigger, transition.source) != ("tick", seed.stage):
            continue
        age = state.epoch - seed.entered_epoch
        try:
            check_gate(transition, age, evidence)
        except Refused:
            continue  # not yet; the clock asks again next epoch
        facts.append(
            SeedAdvanced(
                seed=seed.id,
                from_stage=seed.stage,
                stage=transition.target,
                gate=transition.gate,
                evidence=evidence,
                thresholds={r.evidence: r.at_least for r in transition.requires},
                epochs_in_stage=age,
                edits=mode_edits(state, seed, transition.target),
            )
        )
        break
    return facts


def mode_edits(state: ModelState, seed: Seed, stage: str) -> tuple[SetAttribute, ...]:
    """Return the edit that tells a seed's slot its new mode, if it holds a module and the mode changes."""
    mode = state.lifecycle.mode(stage)
    if seed.path is None or mode == state.lifecycle.mode(seed.stage):
        return ()
    return (SetAttribute(seed.path, "mode", mode),)


def continue_training(state: ModelState, step: int) -> tuple[Fact, ...]:
    """Say that training moved on from a version that can be restored; otherwise nothing."""
    if state.standing is None:
        return ()
    return (TrainingContinued(step=step),)


def found_moved(state: ModelState, step: int, moved: Sequence[str]) -> tuple[Fact, ...]:
    """Say which parts of a run were found to have moved without an optimizer step, where nobody said so yet."""
    if step > state.step:
        return continue_training(state, step)
    if state.standing is None or (state.version not in state.restorable and set(moved) <= ASIDE):
        return ()
    return (TrainingContinued(step=step, moved=tuple(moved)),)


def release_captures(state: ModelState) -> tuple[Fact, ...]:
    """Give up the captures that the retention policy no longer wants."""
    keep = state.capture_policy.keep_last
    if keep is None:
        return ()
    birth = min(state.captures, default=None)
    needed = {
        state.restorable[w.subject_version - 1].capture
        for w in state.lineage.watches
        if w.subject_version - 1 in state.restorable
    }
    head = state.standing
    candidates = [v for v in sorted(state.captures) if v != birth and v not in needed]
    old = candidates[: max(len(candidates) - keep, 0)]
    surplus = [v for v in old if head is None or v != head.capture]
    return (CapturesReleased(versions=tuple(surplus)),) if surplus else ()
