"""What a layer itself returned, before the connections that act on it changed that."""

from __future__ import annotations

from collections.abc import Callable

import torch
from attrs import evolve
from torch import nn

from esper_es.planning.observation import Observation
from esper_es.projections.live.hosting import stages_of
from esper_es.projections.live.journal import Journal
from esper_es.projections.live.names import module_at


def observed(root: nn.Module, path: str, observe: Callable[[], Observation]) -> Observation:
    """Observe a copy of the model, with the results of one layer as they were before any connection changed them.

    Whatever takes the place of the layer takes these connections too, so it stands for the layer alone.

    Args:
        root: the copy.
        path: of the layer, whose calls are kept.
        observe: runs the copy.
    """
    layer = module_at(root, path)
    stages = stages_of(layer)
    if not stages:
        return observe()
    heard: list[torch.Tensor] = []

    def keep(stream: torch.Tensor) -> torch.Tensor:
        heard.append(stream.clone())
        return stream

    journal = Journal()
    journal.set_attribute(layer, "_esper_stages", (keep, *stages))
    try:
        observation = observe()
    finally:
        journal.undo()
    calls = observation.taken.get(path, ())
    own = tuple(evolve(call, output=stream) for call, stream in zip(calls, heard, strict=False))
    return evolve(observation, taken={**observation.taken, path: own if len(heard) == len(calls) else calls})
