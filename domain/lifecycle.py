"""The life of a seed, declared once: stages, what each means for the module, transitions and gates.

The default profile is esper-lite's. One module-level state machine answers which transition is legal; facts
record the resulting stage and folding only assigns it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from attrs import evolve, frozen
from transitions import Machine, MachineError

from esper_es.domain.errors import Refused, UsageError

ABSENT = "absent"
INCUBATING = "incubating"
BLENDING = "blending"
ACTIVE = "active"
PERMANENT = "permanent"


@frozen
class Stage:
    """A stage of a seed's life.

    Attributes:
        name: e.g. ``"TRAINING"``.
        mode: ``"absent"`` (no module), ``"incubating"`` (learns, the output is unchanged), ``"blending"``
            (alpha moves), ``"active"`` (alpha is at its target), or ``"permanent"`` (an ordinary layer).
    """

    name: str
    mode: str


@frozen
class Requirement:
    """A number that evidence must reach. Missing evidence fails."""

    evidence: str
    at_least: float


@frozen
class Transition:
    """A legal step of a seed's life, and its gate.

    Attributes:
        trigger: the command: ``"germinate"``, ``"advance"``, ``"cull"``, ``"fossilize"`` or ``"tick"`` (the
            clock).
        source: stage before.
        target: stage after.
        gate: stable name of the gate, or empty.
        min_epochs: epochs that the seed must have spent in ``source``.
        requires: evidence that must be present and large enough.
    """

    trigger: str
    source: str
    target: str
    gate: str = ""
    min_epochs: int = 0
    requires: tuple[Requirement, ...] = ()


@frozen
class LifecycleProfile:
    """A versioned lifecycle: data, recorded in the log with the model that uses it.

    Attributes:
        name: e.g. ``"esper-lite"``.
        version: grows when the data changes.
        initial: stage of a planted seed.
        stages: all stages.
        transitions: all legal steps.
    """

    name: str
    version: int
    initial: str
    stages: tuple[Stage, ...]
    transitions: tuple[Transition, ...]

    def mode(self, stage: str) -> str:
        """Return what ``stage`` means for the module."""
        return next(s.mode for s in self.stages if s.name == stage)

    def step(self, stage: str, trigger: str) -> Transition:
        """Return the transition that ``trigger`` causes from ``stage``.

        Raises:
            Refused: if the profile has no such transition.
            UsageError: if the profile knows no such trigger.
        """
        target = _resulting_stage(self, stage, trigger)
        return next(
            t for t in self.transitions if (t.trigger, t.source, t.target) == (trigger, stage, target)
        )

    def with_min_epochs(self, **by_gate: int) -> LifecycleProfile:
        """Return a profile whose named gates ask for other numbers of epochs, e.g. ``G2=10``.

        Raises:
            UsageError: if a gate is unknown.
        """
        known = {t.gate for t in self.transitions if t.gate}
        if unknown := set(by_gate) - known:
            raise UsageError(f"unknown gates {sorted(unknown)}; this profile has {sorted(known)}")
        transitions = tuple(
            evolve(t, min_epochs=by_gate[t.gate]) if t.gate in by_gate else t for t in self.transitions
        )
        return evolve(self, transitions=transitions)


class _Probe:
    """Carries a stage through the machine; thrown away after one trigger."""

    state: str


@cache
def machine(profile: LifecycleProfile) -> Machine:
    """Return the one state machine of a profile; it holds no models."""
    return Machine(
        model=None,
        states=[stage.name for stage in profile.stages],
        transitions=[[t.trigger, t.source, t.target] for t in profile.transitions],
        initial=profile.initial,
        auto_transitions=False,
    )


def _resulting_stage(profile: LifecycleProfile, stage: str, trigger: str) -> str:
    known = {t.trigger for t in profile.transitions}
    if trigger not in known:
        raise UsageError(f"profile {profile.name!r} has no command {trigger!r}; it has {sorted(known)}")
    probe = _Probe()
    shared = machine(profile)
    shared.add_model(probe, initial=stage)
    try:
        probe.trigger(trigger)  # type: ignore[attr-defined]
    except MachineError:
        legal = sorted({t.trigger for t in profile.transitions if t.source == stage})
        raise Refused(
            f"a seed in stage {stage} cannot {trigger}; from there it can {', '.join(legal) or 'do nothing'}",
            "lifecycle",
        ) from None
    finally:
        shared.remove_model(probe)
    return probe.state


def check_gate(transition: Transition, epochs_in_stage: int, evidence: Mapping[str, float]) -> None:
    """Check a transition's gate.

    Args:
        transition: the step about to be taken.
        epochs_in_stage: epochs since the seed entered its stage.
        evidence: numbers given for this step.

    Raises:
        Refused: when the seed is too young, evidence is missing, or a number is too small.
    """
    name = transition.gate or transition.trigger
    if epochs_in_stage < transition.min_epochs:
        raise Refused(
            f"gate {name}: {epochs_in_stage} epochs in {transition.source}, "
            f"{transition.min_epochs} are required",
            name,
        )
    for requirement in transition.requires:
        if requirement.evidence not in evidence:
            raise Refused(
                f"gate {name}: evidence {requirement.evidence!r} is missing "
                f"(at least {requirement.at_least:g} is required)",
                name,
            )
        if evidence[requirement.evidence] < requirement.at_least:
            raise Refused(
                f"gate {name}: {requirement.evidence}={evidence[requirement.evidence]:g}, "
                f"at least {requirement.at_least:g} is required",
                name,
            )


ESPER_LITE = LifecycleProfile(
    name="esper-lite",
    version=1,
    initial="DORMANT",
    stages=(
        Stage("DORMANT", ABSENT),
        Stage("GERMINATED", INCUBATING),
        Stage("TRAINING", INCUBATING),
        Stage("BLENDING", BLENDING),
        Stage("HOLDING", ACTIVE),
        Stage("FOSSILIZED", PERMANENT),
        Stage("PRUNED", ABSENT),
        Stage("EMBARGOED", ABSENT),
        Stage("RESETTING", ABSENT),
    ),
    transitions=(
        Transition("germinate", "DORMANT", "GERMINATED", "G0"),
        Transition("advance", "GERMINATED", "TRAINING", "G1"),
        Transition("advance", "TRAINING", "BLENDING", "G2", min_epochs=1),
        Transition("tick", "BLENDING", "HOLDING", "G3", requires=(Requirement("alpha_progress", 1.0),)),
        Transition(
            "fossilize",
            "HOLDING",
            "FOSSILIZED",
            "G5",
            min_epochs=1,
            requires=(Requirement("contribution", 0.0),),
        ),
        Transition("blend", "HOLDING", "BLENDING"),
        Transition("cull", "GERMINATED", "PRUNED"),
        Transition("cull", "TRAINING", "PRUNED"),
        Transition("cull", "BLENDING", "PRUNED"),
        Transition("cull", "HOLDING", "PRUNED"),
        Transition("tick", "PRUNED", "EMBARGOED", min_epochs=1),
        Transition("tick", "EMBARGOED", "RESETTING", min_epochs=5),
        Transition("tick", "RESETTING", "DORMANT", min_epochs=1),
    ),
)
"""esper-lite's lifecycle with permissive gates: numbers of epochs are small and only G5 asks for evidence.

``contribution`` is the counterfactual: metric with the seed minus metric with alpha at 0.
"""

STRICT_GATES: Mapping[str, tuple[int, tuple[Requirement, ...]]] = {
    "G2": (10, (Requirement("accuracy_gain", 0.005), Requirement("gradient_ratio", 0.10))),
    "G3": (10, (Requirement("alpha_progress", 1.0),)),
    "G5": (10, (Requirement("contribution", 0.01),)),
}


def strict(profile: LifecycleProfile = ESPER_LITE) -> LifecycleProfile:
    """Return the profile with esper-lite's strict gates: ten epochs a stage, evidence for each promotion."""
    transitions = tuple(
        evolve(t, min_epochs=STRICT_GATES[t.gate][0], requires=STRICT_GATES[t.gate][1])
        if t.gate in STRICT_GATES
        else t
        for t in profile.transitions
    )
    return evolve(profile, name=f"{profile.name}-strict", transitions=transitions)
