"""What is done to the network, and when: a table."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen
from digits_model import convolution
from digits_task import Images, accuracy

from esper_es import (
    AdaptationDecision,
    AlphaSchedule,
    Cause,
    Run,
    SurgeryConstraints,
    SurgeryResult,
    WatchPolicy,
)

EPOCHS = 34

CONSTRAINTS = SurgeryConstraints(
    min_epochs_between_surgeries=3,
    max_surgeries_per_epoch=1,
    max_width_multiplier=2.0,
    min_width_divisor=16.0,
    max_parameter_increase=8.0,
    rollback_on_performance_drop=0.25,
    required_validation_score=0.9,
)
WATCH = WatchPolicy(metric="val_acc", epochs=3)
"""A surgery is undone when validation accuracy drops by 25% within three epochs, or ends them below 90% of what
it was."""


@frozen
class At:
    """One row: after this epoch, for this reason, do this.

    Attributes:
        epoch: counted from 1.
        reason: goes into the log with the change.
        do: takes the run, and who asks for the change and why.
    """

    epoch: int
    reason: str
    do: Callable[[Run, Cause], SurgeryResult]

    @property
    def cause(self) -> Cause:
        return Cause(actor="the schedule", reasoning=self.reason)


def schedule(validation: Images) -> tuple[At, ...]:
    """Return all that is planned; seeds are judged on the validation images."""
    # fmt: off
    return (
        At(2, "early features are few", lambda run, why: run.seeds.plant("early", "stem", cause=why)),
        At(4, WIDER.reasoning, lambda run, why: run.apply(WIDER)),
        At(7, "try a convolution there", lambda run, why: run.seeds.germinate("early", "conv_small", cause=why)),
        At(8, "let it learn unheard", lambda run, why: run.seeds.advance("early", cause=why)),
        At(9, "blend it in, linearly", lambda run, why: run.seeds.advance(
            "early", schedule=AlphaSchedule(curve="linear", epochs=3), cause=why)),
        At(12, "more depth", lambda run, why: run.surgeon.add_layer(
            after_layer="deep", new_layer=convolution(8, 8), layer_name="deeper",
            connection_type="residual", cause=why)),
        At(13, "it earns its place", lambda run, why: fossilize(run, "early", validation, why)),
        At(14, "half-way features are few", lambda run, why: run.seeds.plant("middle", "down", cause=why)),
        At(14, "try a bottleneck there", lambda run, why: run.seeds.germinate(
            "middle", "bottleneck", reduction=2, cause=why)),
        At(15, "let it learn unheard", lambda run, why: run.seeds.advance("middle", cause=why)),
        At(15, "a shorter way for gradients", lambda run, why: run.surgeon.add_skip_connection(
            from_layer="stem", to_layer="deep", cause=why)),
        At(16, "a spare seed", lambda run, why: run.seeds.plant("spare", "hidden", cause=why)),
        At(16, "rank 2 is cheap", lambda run, why: run.seeds.germinate("spare", "lora", rank=2, cause=why)),
        At(17, "let it learn unheard", lambda run, why: run.seeds.advance("spare", cause=why)),
        At(18, "blend it in, by a cosine", lambda run, why: run.seeds.advance(
            "middle", schedule=AlphaSchedule(curve="cosine", epochs=4), cause=why)),
        At(20, "16 times the neurons, at once", lambda run, why: run.surgeon.modify_layer_width(
            layer_name="hidden", new_width=256, cause=why)),
        At(23, "it earns its place", lambda run, why: fossilize(run, "middle", validation, why)),
        At(23, "a wider classifier", lambda run, why: run.surgeon.modify_layer_width(
            layer_name="hidden", new_width=32, cause=why)),
        At(24, "a third of it, for a try", lambda run, why: run.seeds.advance(
            "spare", schedule=AlphaSchedule(target=0.3, epochs=2), cause=why)),
        At(27, "is the added depth needed?", lambda run, why: run.surgeon.remove_layer(
            layer_name="deeper", bridge_strategy="learned", cause=why)),
        At(28, "not worth its parameters", lambda run, why: cull(run, "spare", validation, why)),
        At(31, "would two neurons do?", lambda run, why: run.surgeon.modify_layer_width(
            layer_name="hidden", new_width=2, cause=why)),
    )
    # fmt: on


WIDER = AdaptationDecision(
    decision_id="digits-1",
    layer_name="down.0",
    adaptation_type="add_neurons",
    confidence=0.8,
    urgency=0.5,
    parameters={"new_width": 16},
    reasoning="eight channels do not tell ten digits apart",
    actor="a person",
)


def contribution(run: Run, seed: str, validation: Images) -> float:
    """Return the counterfactual: validation accuracy with the seed minus validation accuracy without it."""
    with_seed = accuracy(run.model, validation)
    with run.seeds.muted(seed):
        return with_seed - accuracy(run.model, validation)


def fossilize(run: Run, seed: str, validation: Images, why: Cause) -> SurgeryResult:
    """Make a seed permanent on the evidence of what it contributes."""
    evidence = {"contribution": contribution(run, seed, validation)}
    return run.seeds.fossilize(seed, evidence=evidence, cause=why)


def cull(run: Run, seed: str, validation: Images, why: Cause) -> SurgeryResult:
    """Remove a seed, and say what it contributed."""
    share = contribution(run, seed, validation)
    return run.seeds.cull(seed, reason=f"contributes {share:+.4f} to validation accuracy", cause=why)
