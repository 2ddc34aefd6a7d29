"""Copies of a live model on which everything is tried first."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import TypeVar

from torch import nn

from esper_es.domain.errors import Refused, UsageError
from esper_es.lent_tensors import lent
from esper_es.module_copying import deep_copy
from esper_es.projections.live.hosting import heard
from esper_es.projections.live.kept_tensors import forget_kept, kept_tensors

Result = TypeVar("Result")

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
    return _shadow(module, {})


def on_a_copy(module: nn.Module, action: Callable[[nn.Module], Result]) -> Result:
    """Return what an action makes of a copy as ``shadow_of`` gives one; the model must not be written to meanwhile.

    The copy takes no memory for parameters before something writes to them: until then the model lends them, see
    ``lent_tensors``. Nothing that is returned may hold on to it: it would be given bytes of its own.

    Raises: as ``shadow_of``, and whatever the action raises.
    """
    loan = lent(module)
    try:
        return action(_shadow(module, loan.borrowed))
    except Refused as refusal:
        _forget_locals(refusal)
        raise
    finally:
        loan.end()


def _forget_locals(refusal: Refused) -> None:
    """Clear what the functions that led to a refusal held: the copy, for as long as the refusal lives."""
    error: BaseException | None = refusal
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _shadow(module: nn.Module, copied: Mapping[int, object]) -> nn.Module:
    _require_own_forwards(module)
    try:
        shadow = deep_copy(module, {**_computed_tensors(module), **copied})
    except Exception as error:
        raise UsageError(f"the model can't be deep-copied, which every surgery needs: {error}") from error
    for part in shadow.modules():
        part.__dict__.pop(_HOOKS_ARE_THERE, None)
        for name in _HOOKS:
            hooks: dict[int, object] = getattr(part, name, {})
            for key in list(hooks):
                if not _from_torch(hooks[key]) and hooks[key] is not heard:
                    del hooks[key]
    forget_kept(shadow.modules())
    return shadow


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


def _computed_tensors(module: nn.Module) -> dict[int, object]:
    """Return copies of kept tensors that have a graph, which ``deepcopy`` refuses, by identity."""
    return {
        id(tensor): tensor.detach().clone()
        for part in module.modules()
        for tensor in kept_tensors(part)
        if not tensor.is_leaf
    }


def _from_torch(hook: object) -> bool:
    owner = sys.modules.get(getattr(hook, "__module__", "") or type(hook).__module__)
    return owner is not None and owner.__name__.split(".")[0] == "torch"
