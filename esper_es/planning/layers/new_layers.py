"""Layers that a caller hands over: what a log can't tell of, or a copy could not keep, is no layer to insert."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from esper_es.domain.errors import ReplayError, UsageError
from esper_es.projections.live.build import build, fragment_of
from esper_es.projections.live.names import own_tensors

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def given_layer(layer: nn.Module, model: nn.Module) -> nn.Module:
    """Return a copy of a layer on the CPU, which the model can hold and a log describe.

    Args:
        layer: as the caller built it; it is left as it is.
        model: where the copy is to go.

    Raises:
        UsageError: naming what can't go there, and what to do instead.
    """
    require_tree(layer)
    for path, part in layer.named_modules():
        where = f"new_layer's {path!r}" if path else "new_layer"
        for check in _CHECKS:
            if (wrong := check(part)) is not None:
                raise UsageError(f"{where} {wrong}")
    _require_own(layer, model)
    copied = copy.deepcopy(layer).cpu()
    try:
        build(fragment_of(copied), seed=0)
    except ReplayError as error:
        raise UsageError(
            "new_layer holds something that the kinds of its layers do not tell of (parameters or buffers of its own, "
            f"one layer in two places), so a replay could not build it: {error}"
        ) from error
    return copied


def require_tree(layer: nn.Module, around: tuple[int, ...] = ()) -> None:
    """Check that no module holds itself, which not even ``repr`` survives.

    Args:
        layer: to be looked at.
        around: identities of the modules that hold it.

    Raises:
        UsageError: if one does.
    """
    if id(layer) in around:
        raise UsageError(
            f"new_layer holds a {type(layer).__name__} that holds itself; a model is a tree of modules"
        )
    for child in layer.children():
        require_tree(child, (*around, id(layer)))


def _tensors(part: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, tensor) for name, tensor, _ in own_tensors(part))


def _lazy(part: nn.Module) -> str | None:
    for name, tensor in _tensors(part):
        if is_lazy(tensor):
            return f"has no shape for its {name!r} yet; run it once, or build a {_eager_name(part)}"
    return None


def _eager_name(part: nn.Module) -> str:
    eager = getattr(type(part), "cls_to_become", None)
    return eager.__name__ if eager is not None else type(part).__name__


def _meta(part: nn.Module) -> str | None:
    for name, tensor in _tensors(part):
        if tensor.is_meta:
            return f"has no bytes for its {name!r}, which is on the meta device; build it on a real one"
    return None


def _parametrized(part: nn.Module) -> str | None:
    if is_parametrized(part):
        return (
            "is parametrized, which no layer kind tells of; make it plain with "
            "torch.nn.utils.parametrize.remove_parametrizations"
        )
    return None


def _hooked(part: nn.Module) -> str | None:
    hooks = [hook for name in _HOOKS for hook in getattr(part, name).values()]
    if hooks:
        what = getattr(hooks[0], "__name__", type(hooks[0]).__name__)
        return f"has a hook, {what}, which the log does not tell of; register hooks on the model's layer afterwards"
    return None


def _replaced_forward(part: nn.Module) -> str | None:
    if "forward" in part.__dict__:
        return (
            "has its forward replaced on the object itself, which the log does not tell of; write a subclass"
        )
    return None


def _frozen(part: nn.Module) -> str | None:
    if not all(parameter.requires_grad for parameter in part.parameters(recurse=False)):
        return (
            "has frozen parameters, which the log does not tell of; insert it trainable and freeze it in the model "
            "afterwards"
        )
    return None


_CHECKS: tuple[Callable[[nn.Module], str | None], ...] = (
    _lazy,
    _meta,
    _parametrized,
    _hooked,
    _replaced_forward,
    _frozen,
)


def _require_own(layer: nn.Module, model: nn.Module) -> None:
    """Check that nothing of the layer belongs to the model already: a copy would not stay the same object."""
    modules = {id(part): path for path, part in model.named_modules()}
    tensors = {id(tensor): name for name, tensor in model.named_parameters()}
    tensors |= {id(tensor): name for name, tensor in model.named_buffers()}
    for part in layer.modules():
        owned = next((tensors[id(t)] for _, t in _tensors(part) if id(t) in tensors), None)
        shared = modules.get(id(part), owned)
        if shared is not None:
            raise UsageError(
                f"new_layer shares {shared or 'the model itself'!r} with the model, and would not stay shared, for it "
                "is copied; hand over a copy.deepcopy of it"
            )
