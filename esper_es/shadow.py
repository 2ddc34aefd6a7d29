"""Copies of a live model on which everything is tried first."""

from __future__ import annotations

import copy
import sys
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from types import CellType, FunctionType, MethodType

import torch
from torch import nn

from esper_es.domain.errors import UsageError
from esper_es.projections.live.hosting import heard

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)

_HOOKS_ARE_THERE = "_output_capturing_hooks_installed"
"""By this, models of transformers know that they hooked their layers to collect hidden states; they do so again where
it is not set."""


def shadow_of(module: nn.Module) -> nn.Module:
    """Return a deep copy without gradients and without the user's hooks, which might act on the outside.

    Hooks of torch's own (weight norm, spectral norm) stay, and ours before which fused paths step aside; those by
    which transformers collects hidden states are put there anew when the copy runs. Tensors that modules computed and
    kept are copied without their graphs.

    Raises:
        UsageError: if the model can't be copied.
    """
    _require_own_forwards(module)
    try:
        copied = copy.deepcopy(module, {**_empty_containers(module), **_computed_tensors(module)})
    except Exception as error:
        raise UsageError(f"the model can't be deep-copied, which every surgery needs: {error}") from error
    for part in copied.modules():
        part.__dict__.pop(_HOOKS_ARE_THERE, None)
        for name in _HOOKS:
            hooks: dict[int, object] = getattr(part, name, {})
            for key in list(hooks):
                if not _from_torch(hooks[key]) and hooks[key] is not heard:
                    del hooks[key]
    return copied


def _require_own_forwards(module: nn.Module) -> None:
    """Check that a copy would run itself: a function put in the place of a forward may hold on to the module."""
    for path, part in module.named_modules():
        forward = part.__dict__.get("forward")
        if isinstance(forward, (FunctionType, partial)) and any(
            isinstance(held, nn.Module) for held in _held(forward, set())
        ):
            raise UsageError(
                f"the forward of {path or 'the model'!r} was replaced on the object by a function that holds a module, "
                "which copies of the model would run instead of their own; bind it with types.MethodType, or write "
                "a subclass"
            )


def _held(value: object, seen: set[int]) -> Iterator[object]:
    """Yield what a function holds in its closure, the owners of methods, and what is bound to a partial call."""
    if isinstance(value, partial):
        parts: tuple[object, ...] = (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, FunctionType):
        cells = (cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell))
        parts = (*cells, *(value.__defaults__ or ()))
    elif isinstance(value, MethodType):
        parts = (value.__self__,)
    else:
        return
    for part in parts:
        if id(part) not in seen:
            seen.add(id(part))
            yield part
            yield from _held(part, seen)


def _is_filled(cell: CellType) -> bool:
    """Say whether a closure's cell holds something yet."""
    return cell != CellType()


def _empty_containers(module: nn.Module) -> dict[int, object]:
    """Return copies of the empty dictionaries in which modules keep hooks and children, by identity.

    There are ten to a module, and each costs ``deepcopy`` as much as a tensor.
    """
    return {
        id(value): type(value)()
        for part in module.modules()
        for value in part.__dict__.values()
        if type(value) in (dict, OrderedDict) and not value
    }


def _computed_tensors(module: nn.Module) -> dict[int, object]:
    """Return copies of plain attributes that have a graph, which ``deepcopy`` refuses, by identity."""
    return {
        id(value): value.detach().clone()
        for part in module.modules()
        for value in part.__dict__.values()
        if isinstance(value, torch.Tensor) and not value.is_leaf
    }


def _from_torch(hook: object) -> bool:
    owner = sys.modules.get(getattr(hook, "__module__", "") or type(hook).__module__)
    return owner is not None and owner.__name__.split(".")[0] == "torch"
