"""Which channel feeds which, seeds included."""

from __future__ import annotations

from contextlib import ExitStack

from torch import nn

from esper_es.example_inputs import ExampleInputs
from esper_es.projections.live.modules import SeedSlot
from esper_es.tracing import Trace, Watcher, trace


def traced(module: nn.Module, examples: ExampleInputs, watcher: Watcher | None = None) -> Trace:
    """Trace a copy of the model on its example inputs.

    The branch of a seed takes part even while it rests, so that what it is fed with and what it feeds grow and
    shrink together with the rest. ``watcher`` collects what else is to be seen of it.

    Raises:
        UsageError: if the model fails on its example inputs.
    """
    with ExitStack() as stack:
        for part in module.modules():
            if isinstance(part, SeedSlot):
                stack.enter_context(part.mixing())
        return trace(module, list(examples.fresh()), watcher)
