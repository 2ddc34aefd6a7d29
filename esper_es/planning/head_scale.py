"""How scores are scaled when heads change their size, found out by measuring.

Some code divides scores by the square root of the size that heads have when it runs, some by a number that it keeps.
So that the outputs stay, old channels of queries are multiplied in the first case and left alone in the second. Which
case it is the outputs tell; but not those of a model that hardly reads its attention yet. So they are measured on a
copy with all parameters drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from esper_es.domain.edits import Edit
from esper_es.effects import output_difference
from esper_es.planning.observation import observe
from esper_es.planning.scene import Scene
from esper_es.planning.width_trial import tried

Tensors = dict[str, torch.Tensor]


@contextmanager
def drawn_anew(module: nn.Module, seed: int) -> Iterator[None]:
    """Draw the parameters of a copy anew, of a size at which signals neither vanish nor grow; numbers of norms and
    biases only by a little. All are back afterwards."""
    generator = torch.Generator().manual_seed(seed)
    parameters = [p for p in module.parameters() if p.is_floating_point()]
    before = [parameter.data for parameter in parameters]
    try:
        for parameter, old in zip(parameters, before, strict=True):
            noise = torch.randn(old.shape, generator=generator)
            if old.ndim < 2:
                parameter.data = old + 0.1 * noise.to(old)
            else:
                parameter.data = (noise * (old.shape[0] / old.numel()) ** 0.5).to(old)
        yield
    finally:
        for parameter, old in zip(parameters, before, strict=True):
            parameter.data = old


def outputs_under(scene: Scene, edits: Sequence[Edit], tensors: Tensors) -> tuple[torch.Tensor, ...] | None:
    """Return the outputs of the copy under edits; None where it does not run."""
    try:
        return tried(scene.shadow, edits, tensors, lambda: observe(scene.shadow, scene.examples).outputs)
    except (RuntimeError, ValueError, TypeError, LookupError):
        return None


def moved(expected: Sequence[torch.Tensor] | None, found: Sequence[torch.Tensor] | None) -> float:
    """Return how far outputs are from what they should be; infinity where there are none to compare."""
    if expected is None or found is None:
        return float("inf")
    difference = output_difference(expected, found)
    return float("inf") if difference is None else difference
