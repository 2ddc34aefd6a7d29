"""Which modules run when nobody watches them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from esper_es.example_inputs import ExampleInputs
from esper_es.planning.observation import in_eval


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
