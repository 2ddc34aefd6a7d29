"""How scores are scaled when heads change their size, found out by measuring.

Some code divides scores by the square root of the size that heads have when it runs, some by a number that it keeps.
So that the outputs stay, old channels of queries are multiplied in the first case and left alone in the second. Which
case it is the outputs tell; but not those of a model that hardly reads its attention yet. So they are measured on a
copy with all parameters drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import sqrt
from typing import Any

import torch
from attrs import frozen
from torch import nn

from esper_es.domain.edits import Edit
from esper_es.effects import output_difference
from esper_es.example_inputs import ExampleCall, ExampleInputs
from esper_es.planning.observation import observe
from esper_es.planning.trial import tried

Outputs = tuple[torch.Tensor, ...]


@frozen(eq=False)
class Drawn:
    """A copy of a model with other numbers in it, to be measured.

    Attributes:
        module: the copy.
        examples: what to run it on.
        rounding: relative change of its outputs that rounding may cause.
    """

    module: nn.Module
    examples: ExampleInputs
    rounding: float

    def outputs(self, edits: Sequence[Edit] = (), tensors: Mapping[str, torch.Tensor] = {}) -> Outputs | None:
        """Return its outputs under edits; None where it does not run.

        What runs is the model's own code, on tensors of sizes that it may not know: torch complains of shapes by
        RuntimeErrors, and code that unpacks, converts or looks up by size raises the other three. What the edits
        themselves raise goes through.
        """

        def look() -> Outputs | None:
            try:
                return observe(self.module, self.examples).outputs
            except (RuntimeError, ValueError, TypeError, LookupError):
                return None

        return tried(self.module, edits, tensors, look)


@contextmanager
def drawn_anew(module: nn.Module, examples: ExampleInputs, seed: int) -> Iterator[Drawn]:
    """Draw the parameters of a copy anew, of a size at which signals neither vanish nor grow; numbers of norms and
    biases only by a little. All are back afterwards.

    Numbers of less than single precision have that meanwhile, if the model runs like this: rounding hides too much.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    before = [tensor.data for tensor in tensors]
    try:
        for tensor, old in zip(tensors, before, strict=True):
            if isinstance(tensor, nn.Parameter):
                tensor.data = _redrawn(old, generator)
        drawn = [tensor.data for tensor in tensors]
        for tensor in tensors:
            tensor.data = _precise(tensor.data)
        found = Drawn(module, _precise_examples(examples), 64 * torch.finfo(torch.float32).eps)
        if found.outputs() is None:
            for tensor, data in zip(tensors, drawn, strict=True):
                tensor.data = data
            coarsest = max((torch.finfo(data.dtype).eps for data in drawn), default=0.0)
            found = Drawn(module, examples, 64 * coarsest)
        yield found
    finally:
        for tensor, old in zip(tensors, before, strict=True):
            tensor.data = old


def _redrawn(old: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(old.shape, generator=generator, device="cpu")
    if old.ndim < 2:
        return old + 0.1 * noise.to(old)
    return (noise * sqrt(old.shape[0] / old.numel())).to(old)


def _precise(value: Any) -> Any:
    small = isinstance(value, torch.Tensor) and value.is_floating_point() and value.element_size() < 4
    return value.float() if small else value


def _precise_examples(examples: ExampleInputs) -> ExampleInputs:
    calls = [
        ExampleCall(tuple(map(_precise, args)), {key: _precise(value) for key, value in kwargs.items()})
        for args, kwargs in examples.fresh()
    ]
    return ExampleInputs(tuple(calls))


def moved(expected: Sequence[torch.Tensor] | None, found: Sequence[torch.Tensor] | None) -> float:
    """Return how far outputs are from what they should be; infinity where there are none to compare."""
    if expected is None or found is None:
        return float("inf")
    difference = output_difference(expected, found)
    return float("inf") if difference is None else difference
