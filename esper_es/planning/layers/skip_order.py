"""Whether skip connections go forward along one path of the computation, from the traced order of calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from attrs import define, field
from torch import nn

from esper_es.domain.architecture import Connection
from esper_es.example_inputs import ExampleInputs
from esper_es.planning.layers.reach import Marks, ReachMode
from esper_es.planning.observation import ADD_EXAMPLES, Call, Observation, observe
from esper_es.projections.live.hosting import bus_of
from esper_es.projections.live.names import module_at
from esper_es.projections.live.structures import entry_at, stream_in


@define(eq=False)
class SkipTrace:
    """A run in which the joins of some connections did nothing.

    Attributes:
        observation: order of the calls.
        reached: by target path, the sources that its output depends on.
    """

    observation: Observation
    reached: dict[str, set[str]] = field(factory=dict)


def trace_skips(model: nn.Module, examples: ExampleInputs, skips: Iterable[Connection]) -> SkipTrace:
    """Run a copy of the model without what these connections join, and see what their targets depend on."""
    skips = tuple(skips)
    reach = ReachMode()
    reached: dict[str, set[str]] = {skip.target: set() for skip in skips}
    handles = []
    for path in dict.fromkeys(skip.target for skip in skips):
        handles.append(module_at(model, path).register_forward_hook(_collecting(reach, reached[path])))
    for path in dict.fromkeys(skip.source for skip in skips):
        handles.append(module_at(model, path).register_forward_hook(_marking(reach, path), prepend=True))
    try:
        with _muted(model, skips), reach:
            return SkipTrace(observe(model, examples), reached)
    finally:
        for handle in handles:
            handle.remove()


def _marking(reach: ReachMode, path: str) -> Any:
    def mark(module: nn.Module, args: Any, output: Any) -> None:
        location = stream_in(output)
        if location is not None:
            reach.mark(entry_at(output, location), path)

    return mark


def _collecting(reach: ReachMode, found: set[str]) -> Any:
    def collect(module: nn.Module, args: Any, output: Any) -> None:
        location = stream_in(output)
        marks: Marks = frozenset() if location is None else reach.marks_of(entry_at(output, location))
        found.update(marks)

    return collect


@contextmanager
def _muted(model: nn.Module, skips: Iterable[Connection]) -> Iterator[None]:
    bus = bus_of(model)
    if bus is None:
        yield
        return
    before = bus.muted
    try:
        bus.muted = before | {skip.id for skip in skips}
        yield
    finally:
        bus.muted = before


def finding(trace: SkipTrace, source: str, target: str) -> tuple[str, str] | None:
    """Return what forbids a skip between two modules, with the stable name of the rule; None if nothing does."""
    observation = trace.observation
    for layer in (source, target):
        if not observation.calls_of(layer):
            return f"layer {layer!r} is never executed on the example inputs; {ADD_EXAMPLES}", "not_executed"
    if observation.examples_of(target) - observation.examples_of(source):
        return (
            f"some example input runs {target!r} and not {source!r}, whose output the skip would take",
            "different_branches",
        )
    for calls in observation.each_together(source, target):
        if (wrong := _wrong_order(source, target, *calls)) is not None:
            return wrong
    if source not in trace.reached[target]:
        return (
            f"{source!r} and {target!r} lie on different branches: the output of {target!r} does not depend on that "
            f"of {source!r}. Connect layers of one path, or end the skip where the branches meet",
            "different_branches",
        )
    return None


def _wrong_order(
    source: str, target: str, taken: Sequence[Call], joined: Sequence[Call]
) -> tuple[str, str] | None:
    """Return what forbids a skip on one example that runs both modules."""
    for layer, calls in ((source, taken), (target, joined)):
        if len(calls) > 1:
            return (
                f"layer {layer!r} runs {len(calls)} times in one forward pass; a skip could not tell which",
                "called_often",
            )
        if calls[0].output is None:
            return f"layer {layer!r} returns no tensor", "no_tensor"
    if taken[0].end >= joined[0].end:
        return (
            f"{source!r} ends after {target!r} in the forward pass; a skip in this direction would make a cycle. "
            "Connect an earlier layer to a later one",
            "cycle",
        )
    return None
