"""Commands of a seed's life: guard by the lifecycle and its gates, then say which facts would hold."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import evolve

from esper_es.domain import rules
from esper_es.domain.alpha import AlphaSchedule
from esper_es.domain.canonical import Json, finite_numbers
from esper_es.domain.clock_commands import mode_edits
from esper_es.domain.edits import SetScalar
from esper_es.domain.errors import Refused, UsageError
from esper_es.domain.facts import (
    AlphaChanged,
    Fact,
    SeedAdvanced,
    SeedCulled,
    SeedFossilized,
    SeedGerminated,
    SeedPlanted,
)
from esper_es.domain.lifecycle import ABSENT, BLENDING, PERMANENT, Transition, check_gate
from esper_es.domain.state import ModelState, Seed
from esper_es.domain.surgery_commands import Change


def seed_named(state: ModelState, seed: str) -> Seed:
    """Return a seed by its id.

    Raises:
        Refused: if there is none.
    """
    if seed not in state.seeds:
        known = ", ".join(sorted(state.seeds)) or "none"
        raise Refused(f"there is no seed {seed!r}; planted seeds: {known}", "unknown_seed")
    return state.seeds[seed]


def plant(state: ModelState, seed: str, layer: str) -> tuple[Fact, ...]:
    """Declare a dormant slot after a layer.

    Raises:
        UsageError: if the id can't name a module.
        Refused: if the id is taken or the layer unknown.
    """
    if not seed.isidentifier():
        raise UsageError(f"a seed's id must be a Python identifier, for it names a module; got {seed!r}")
    if seed in state.seeds:
        raise Refused(
            f"there is a seed {seed!r} already, after layer {state.seeds[seed].layer!r}", "seed_taken"
        )
    if not layer or layer not in state.architecture:
        raise Refused(f"there is no layer {layer!r} to plant a seed after", "unknown_layer")
    return (SeedPlanted(seed=seed, layer=layer, stage=state.lifecycle.initial),)


def gate_of(
    state: ModelState, seed: Seed, trigger: str, evidence: Mapping[str, float], override: str | None
) -> Transition:
    """Return the transition that ``trigger`` causes, once its gate lets the seed through.

    Raises:
        UsageError: if evidence is not made of finite numbers.
        Refused: if the lifecycle or the gate says no.
    """
    try:
        finite_numbers(evidence, "evidence")
    except ValueError as error:
        raise UsageError(str(error)) from None
    transition = state.lifecycle.step(seed.stage, trigger)
    if override is None:
        check_gate(transition, state.epoch - seed.entered_epoch, evidence)
    return transition


def germinate(
    state: ModelState,
    seed: str,
    change: Change,
    *,
    kernel: str,
    arguments: Mapping[str, Json],
    evidence: Mapping[str, float],
    override: str | None = None,
) -> tuple[Fact, ...]:
    """Load a kernel into a dormant slot.

    Raises:
        Refused: when the lifecycle or a resource limit forbids it.
    """
    transition = gate_of(state, seed_named(state, seed), "germinate", evidence, override)
    rules.resulting(state, change.edits, change.effects)
    fact = SeedGerminated(
        seed=seed,
        kernel=kernel,
        arguments=arguments,
        stage=transition.target,
        gate=transition.gate,
        evidence=evidence,
        override=override,
        edits=change.edits,
        effects=change.effects,
        base_capture=change.base_capture(state),
    )
    return change.facts(state, fact)


def advance(
    state: ModelState,
    seed: str,
    trigger: str,
    *,
    evidence: Mapping[str, float],
    override: str | None = None,
    schedule: AlphaSchedule | None = None,
) -> tuple[Fact, ...]:
    """Take the next step of a seed's life that changes no structure (``"advance"`` or ``"blend"``).

    Args:
        state: of the model.
        seed: its id.
        trigger: the command.
        evidence: numbers for the gate.
        override: why the gate may be passed without them.
        schedule: ramp of alpha, for a stage that blends; it starts from the alpha that the seed has, so that
            the output does not jump, whatever its own ``start`` says.

    Raises:
        Refused: when the lifecycle or the gate forbids it.
        UsageError: when an alpha schedule is given for a stage that does not blend.
    """
    known = seed_named(state, seed)
    transition = gate_of(state, known, trigger, evidence, override)
    blends = state.lifecycle.mode(transition.target) == BLENDING
    if schedule is not None and not blends:
        raise UsageError(
            f"stage {transition.target} does not blend; an alpha schedule belongs to one that does"
        )
    modes = (state.lifecycle.mode(known.stage), state.lifecycle.mode(transition.target))
    if ABSENT in modes or PERMANENT in modes:
        raise Refused(
            f"{known.stage} to {transition.target} changes the structure; use germinate, cull or fossilize",
            "lifecycle",
        )
    return (
        SeedAdvanced(
            seed=seed,
            from_stage=known.stage,
            stage=transition.target,
            gate=transition.gate,
            evidence=evidence,
            thresholds={r.evidence: r.at_least for r in transition.requires},
            epochs_in_stage=state.epoch - known.entered_epoch,
            override=override,
            schedule=evolve(schedule or AlphaSchedule(), start=known.alpha) if blends else None,
            edits=mode_edits(state, known, transition.target),
        ),
    )


def set_alpha(state: ModelState, seed: str, alpha: float) -> tuple[Fact, ...]:
    """Set the weight of a blending seed's branch by hand; its ramp ends, and alpha counts as at its target.

    Raises:
        UsageError: if alpha is not in [0, 1].
        Refused: if the seed is not blending.
    """
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0.0 <= alpha <= 1.0:
        raise UsageError(f"alpha must be a number in [0, 1], got {alpha!r}")
    known = seed_named(state, seed)
    if known.path is None or state.lifecycle.mode(known.stage) != BLENDING:
        raise Refused(
            f"seed {seed!r} is in stage {known.stage}; alpha moves only while it blends", "lifecycle"
        )
    alpha = float(alpha)
    return (
        AlphaChanged(
            seed=seed,
            alpha=alpha,
            edits=(SetScalar(f"{known.path}.alpha", alpha),),
            schedule=AlphaSchedule(start=alpha, target=alpha, epochs=1),
        ),
    )


def cull(state: ModelState, seed: str, change: Change, *, reason: str) -> tuple[Fact, ...]:
    """Remove a seed's module.

    Raises:
        Refused: when the lifecycle forbids it.
    """
    known = seed_named(state, seed)
    transition = gate_of(state, known, "cull", {}, None)
    rules.resulting(state, change.edits, change.effects)
    fact = SeedCulled(
        seed=seed,
        from_stage=known.stage,
        stage=transition.target,
        reason=reason,
        edits=change.edits,
        effects=change.effects,
        base_capture=change.base_capture(state),
    )
    return change.facts(state, fact)


def fossilize(
    state: ModelState,
    seed: str,
    change: Change,
    *,
    layer: str | None,
    evidence: Mapping[str, float],
    override: str | None = None,
) -> tuple[Fact, ...]:
    """Turn a seed into an ordinary layer.

    Raises:
        Refused: when the lifecycle or the gate forbids it.
    """
    known = seed_named(state, seed)
    transition = gate_of(state, known, "fossilize", evidence, override)
    rules.resulting(state, change.edits, change.effects)
    fact = SeedFossilized(
        seed=seed,
        from_stage=known.stage,
        stage=transition.target,
        layer=layer,
        gate=transition.gate,
        evidence=evidence,
        thresholds={r.evidence: r.at_least for r in transition.requires},
        epochs_in_stage=state.epoch - known.entered_epoch,
        override=override,
        edits=change.edits,
        effects=change.effects,
        base_capture=change.base_capture(state),
    )
    return change.facts(state, fact)
