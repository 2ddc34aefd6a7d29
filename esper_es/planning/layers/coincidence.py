"""Shapes that are the same on the example inputs and not in general, so that a sum would be one of unlike things."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from esper_es.domain.architecture import Connection
from esper_es.domain.errors import EsperError, Refused
from esper_es.example_inputs import ExampleCall, ExampleInputs
from esper_es.planning.observation import Call, Observation, observe
from esper_es.planning.provenance import traced
from esper_es.planning.scene import Scene
from esper_es.projections.live.structures import entry_at, stream_in
from esper_es.tracing import Outputs, turned

Pair = tuple[Call, Call]


def unlike(scene: Scene, observation: Observation, skip: Connection) -> tuple[Observation, Pair] | None:
    """Return a run in which the two ends of a skip return different shapes; None if no run that can be tried shows one.

    That are the example inputs, and the first of them with twice as many samples, positions or the like, where the
    model runs on that: sizes that a model halves and doubles again stay alike.
    """
    for tried in (observation, *_resized(scene)):
        for source, target in tried.pairs_of(skip.source, skip.target):
            if source.output != target.output:
                return tried, (source, target)
    return None


def _resized(scene: Scene) -> Iterator[Observation]:
    """Runs on the first example input with another size, one dimension of its first tensor after another."""
    call = scene.examples.calls[0]
    first = next((v for v in (*call.args, *call.kwargs.values()) if isinstance(v, torch.Tensor)), None)
    for dim in range(0 if first is None else first.ndim):
        for resized in (_doubled, _shortened):
            try:
                yield observe(scene.shadow, ExampleInputs((_with(call, resized, dim, first),)))
            except Exception:  # noqa: BLE001  (whatever the model raises, it does not run on such an input)
                continue
            break


def _with(
    call: ExampleCall, resized: Callable[[torch.Tensor, int], torch.Tensor], dim: int, first: Any
) -> ExampleCall:
    """A call with other sizes in one dimension of its first tensor, and of those that are as long in it."""

    def given(value: Any) -> Any:
        fits = isinstance(value, torch.Tensor) and value.ndim > dim
        return resized(value, dim) if fits and value.shape[dim] == first.shape[dim] else value

    return ExampleCall(
        tuple(given(value) for value in call.args), {name: given(v) for name, v in call.kwargs.items()}
    )


def _doubled(tensor: torch.Tensor, dim: int) -> torch.Tensor:
    return torch.cat([tensor, tensor], dim)


def _shortened(tensor: torch.Tensor, dim: int) -> torch.Tensor:
    return tensor.narrow(dim, 0, max(tensor.shape[dim] - 1, 0))


def require_alike(scene: Scene, skip: Connection, shape: tuple[int, ...]) -> None:
    """Check that what lies along the dimensions of one end of a skip lies along the same ones of the other.

    Only dimensions of one size can have changed places without another shape.

    Raises:
        Refused: otherwise.
    """
    if len(set(shape)) == len(shape):
        return
    outputs = Outputs((skip.source, skip.target), _stream)
    try:
        found = traced(scene.shadow, scene.examples, outputs)
    except EsperError:
        return
    source, target = outputs.along.get(skip.source), outputs.along.get(skip.target)
    if source is None or target is None or len(source) != len(target):
        return
    places = turned(source, target, found.relations.same)
    if places is not None:
        raise Refused(
            f"the outputs of {skip.source!r} and {skip.target!r} are both of shape {shape}, but what lies along "
            f"dimension {places[0]} of the one lies along dimension {places[1]} of the other: a sum would mix channels "
            "with positions or samples. Connect layers whose outputs are laid out alike",
            "unlike_dimensions",
        )


def _stream(output: Any) -> torch.Tensor | None:
    location = stream_in(output)
    return None if location is None else entry_at(output, location)
