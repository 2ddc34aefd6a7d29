"""A plain module from a live one: no swapped classes, the same function."""

from __future__ import annotations

import torch
from torch import nn

from esper_es.domain.errors import EsperError, UsageError
from esper_es.example_inputs import ExampleInputs
from esper_es.planning.observation import in_eval, observe
from esper_es.projections.live.unhosting import ours_in, unhosted
from esper_es.shadow import shadow_of


def exported(module: nn.Module, examples: ExampleInputs, *, standalone: bool) -> nn.Module:
    """Return a plain copy of a live model, without gradients and hooks of the user's.

    Args:
        module: is only read.
        examples: what both are run on, to prove that the function is the same bit for bit.
        standalone: whether the copy must run where esper_es is not installed.

    Raises:
        UsageError: if it can't stand alone and must.
        EsperError: if the copy computes something else; that is a defect.
    """
    shadow = shadow_of(module)
    before = observe(shadow, examples).outputs
    plain = unhosted(shadow, _returning_tensors(shadow, examples))
    if standalone and (ours := ours_in(plain)):
        named = ", ".join(repr(path) if path else "the root" for path in ours[:5])
        raise UsageError(
            f"{named} can't be exported without classes of esper_es: skip connections under a forward of your own, "
            "layers added to or removed from blocks that return structures, and attention whose heads are not as wide "
            "as its stream, need them. Export with standalone=False, and install esper_es where the module is loaded"
        )
    after = observe(plain, examples).outputs
    if len(before) != len(after) or not all(map(_same, before, after)):
        raise EsperError("the exported module computes something else than the live one; please report this")
    return plain


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())


def _returning_tensors(module: nn.Module, examples: ExampleInputs) -> frozenset[str]:
    """Return the paths of the modules that return nothing but a tensor whenever they run."""
    returned: dict[str, bool] = {}
    handles = []
    for path, part in module.named_modules():

        def note(_: nn.Module, args: object, output: object, path: str = path) -> None:
            returned[path] = returned.get(path, True) and isinstance(output, torch.Tensor)

        handles.append(part.register_forward_hook(note))
    try:
        in_eval(module, lambda: _run(module, examples))
    finally:
        for handle in handles:
            handle.remove()
    return frozenset(path for path, plain in returned.items() if plain)


@torch.no_grad()
def _run(module: nn.Module, examples: ExampleInputs) -> None:
    for args, kwargs in examples.fresh():
        module(*args, **kwargs)
