"""Which modules run, and what comes out, when nobody watches."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from esper_es.example_inputs import ExampleInputs
from esper_es.planning.observation import Observation, in_eval
from esper_es.tracing.structure import result_tensors


def executed_unwatched(model: nn.Module, examples: ExampleInputs) -> frozenset[str]:
    """Return the paths of the modules that run in evaluation, without a hook on any of them.

    Code that looks for hooks, such as torch's fused encoder layers, takes another path when there are some.
    """
    names = {id(part): path for path, part in model.named_modules()}
    found: set[str] = set()

    def note(module: nn.Module, args: Any, output: Any) -> None:
        path = names.get(id(module))
        if path is not None:
            found.add(path)

    def run() -> None:
        with torch.no_grad():
            for args, kwargs in examples.fresh():
                model(*args, **kwargs)

    handle = register_module_forward_hook(note)
    try:
        in_eval(model, run)
    finally:
        handle.remove()
    return frozenset(found)


def outputs_unwatched(
    model: nn.Module, examples: ExampleInputs, observation: Observation
) -> tuple[torch.Tensor, ...]:
    """Return what a model gives back in evaluation when nobody watches.

    torch's encoder packs padded sequences then, if it may, and returns zeros where they were padded. Elsewhere it is
    what was observed.
    """
    if not any(isinstance(part, nn.TransformerEncoder) for part in model.modules()):
        return observation.outputs

    def run() -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            outputs = [model(*args, **kwargs) for args, kwargs in examples.fresh()]
        return tuple(tensor for output in outputs for tensor in result_tensors(output))

    found: tuple[torch.Tensor, ...] = in_eval(model, run)
    return found
