"""The proof that a width surgery kept every route."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from esper_es.domain.edits import ScaleSlice
from esper_es.domain.index_map import IndexMap
from esper_es.effects import output_difference
from esper_es.planning.observation import observe
from esper_es.planning.resizing import Resizing, gathers
from esper_es.planning.scene import Scene
from esper_es.planning.width_trial import tolerance, tried
from esper_es.tracing import Trace, prove

Proof = Callable[[], tuple[str, ...]]
"""Looks at the copy of the model, on which the surgery was done, and returns what is wrong."""


def width_proof(scene: Scene, before: Trace, resizings: Sequence[Resizing]) -> Proof:
    """Return a proof by a second trace.

    A single unit has no order that a trace could compare. Where one unit is all that is left of a group that no norm
    mixes, the outputs decide instead: they must be those of the old model in which nothing reads the other units.
    """
    maps = gathers(resizings)
    alone = [r for r in resizings if r.growth is None and r.units == 1 and r.group.units > 1]
    masked = None
    if alone and len(alone) == len(resizings) and not any(r.group.reduced_by for r in alone):
        masked = _masked_outputs(scene, alone)

    def proof() -> tuple[str, ...]:
        findings = prove(before, scene.trace_again(), maps)
        if not findings or masked is None:
            return findings
        changed = output_difference(masked, observe(scene.shadow, scene.examples).outputs)
        return () if changed is not None and changed <= tolerance(scene) else findings

    return proof


def _masked_outputs(scene: Scene, resizings: Sequence[Resizing]) -> tuple[torch.Tensor, ...]:
    """Outputs of the copy while what reads the units that go has weights of zero."""
    tolerance(scene)
    edits = list(_muted(resizings))
    return tried(scene.shadow, edits, {}, lambda: observe(scene.shadow, scene.examples).outputs)


def _muted(resizings: Sequence[Resizing]) -> Iterator[ScaleSlice]:
    for r in resizings:
        if r.member.role == "consumer":
            gone = np.setdiff1d(np.arange(r.old_size), np.array(list(r.gather)))
            yield ScaleSlice(r.member.tensor, r.member.dim, IndexMap.of(gone.tolist()), 0.0)
