"""Layers through which a tapped output joins another, and what becomes of it meanwhile."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import nn

from esper_es.domain.architecture import Connection
from esper_es.domain.errors import Refused
from esper_es.example_inputs import ExampleInputs
from esper_es.planning.layers.adapters import adapter, of_dtype, spatial_dims
from esper_es.planning.observation import Call, Observation
from esper_es.projections.live.fusion import Fusion
from esper_es.projections.live.names import module_at
from esper_es.projections.live.rng import preserved_rng
from esper_es.projections.live.structures import entry_at, stream_in

_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def joining_layer(observation: Observation, source: Call, target: Call, both: bool) -> nn.Module:
    """Return a layer from the output of one call to that of another, or from both side by side.

    It is affine where a stride maps the positions, and a ``Fusion`` otherwise.

    Raises:
        Refused: if the positions of the one say nothing about those of the other.
    """
    what = f"skip from {source.path!r} to {target.path!r}"
    taken, wanted = source.output or (), target.output or ()
    spatial = spatial_dims(observation, source), spatial_dims(observation, target)
    if not both:
        try:
            return adapter(taken, wanted, spatial[0], target.dtype, what)
        except Refused:
            pass
    channels, taken_channels = (1 if spatial[1] else -1), (1 if spatial[0] else -1)
    _require_mappable(taken, wanted, taken_channels, channels, what)
    fusion = Fusion(both, channels, taken_channels)
    incoming = taken[taken_channels] + (wanted[channels] if both else 0)
    outgoing = wanted[channels]
    projection: nn.Module = nn.Linear(incoming, outgoing)
    if channels == 1 and len(wanted) > 2:
        projection = _CONVOLUTIONS[len(wanted) - 2](incoming, outgoing, 1)
    fusion.add_module("projection", of_dtype(projection, target.dtype))
    return fusion


def _require_mappable(
    taken: tuple[int, ...], wanted: tuple[int, ...], taken_channels: int, channels: int, what: str
) -> None:
    found, needed = _positions(taken, taken_channels), _positions(wanted, channels)
    alike = len(found) == len(needed) and (channels == taken_channels == 1 or _in_step(found, needed))
    unrolled = len(found) != len(needed) and prod(found) == prod(needed)
    fits = not found or not needed or alike or unrolled
    if len(taken) < 2 or len(wanted) < 2 or taken[0] != wanted[0] or not fits:
        raise Refused(
            f"{what}: positions of shape {taken} say nothing about those of {wanted}", "incompatible_shapes"
        )


def _positions(shape: tuple[int, ...], channels: int) -> tuple[int, ...]:
    return shape[2:] if channels == 1 else shape[1:-1]


def _in_step(found: tuple[int, ...], needed: tuple[int, ...]) -> bool:
    """Say whether in every dimension one length is a multiple of the other, as in pooled sequences."""
    return all(a % b == 0 or b % a == 0 for a, b in zip(found, needed, strict=True))


def written_in_place(model: nn.Module, examples: ExampleInputs, skip: Connection) -> bool:
    """Say whether the output of a skip's source is written over before its target ends, in training or evaluation.

    Args:
        model: a copy; its buffers and training flags are as before afterwards.
        examples: inputs.
        skip: about to be added.
    """
    return any(_written(model, examples, skip, training) for training in (False, True))


def _written(model: nn.Module, examples: ExampleInputs, skip: Connection, training: bool) -> bool:
    seen: list[tuple[torch.Tensor, int]] = []
    written: list[bool] = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        location = stream_in(output)
        if location is not None:
            stream = entry_at(output, location)
            seen.append((stream, stream._version))

    def compare(module: nn.Module, args: Any, output: Any) -> None:
        written.extend(stream._version != version for stream, version in seen)

    handles = [
        module_at(model, skip.source).register_forward_hook(note),
        module_at(model, skip.target).register_forward_hook(compare),
    ]
    flags = {part: part.training for part in model.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        for part in flags:
            part.training = training
        with preserved_rng(), torch.no_grad():
            for args, kwargs in examples.fresh():
                model(*args, **kwargs)
                seen.clear()
    finally:
        for handle in handles:
            handle.remove()
        for part, flag in flags.items():
            part.training = flag
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
    return any(written)
