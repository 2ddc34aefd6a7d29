"""The only code that mutates a live model. Everything it does, it can undo, in reverse."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from functools import cache
from typing import Any

import torch
from torch import nn

from esper_es.projections.live.interrupts import uninterrupted

_MISSING = object()


class Journal:
    """Records how to undo each mutation before it is made, so that one that is broken off is undone too."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def undo(self) -> None:
        """Take every mutation back, the last one first; an interrupt waits until that is done."""
        with uninterrupted():
            while self._undo:
                self._undo.pop()()

    def set_storage(self, tensor: torch.Tensor, data: torch.Tensor) -> None:
        """Give a parameter or buffer other bytes, shape or dtype; the object stays the same.

        The gradient of a parameter is dropped; give it a new one with ``set_gradient``.
        """
        old, gradient = tensor.data, tensor.grad

        def undo() -> None:
            _swap(tensor, old)
            tensor.grad = gradient

        self._undo.append(undo)
        _swap(tensor, data)

    def set_gradient(self, parameter: torch.Tensor, gradient: torch.Tensor | None) -> None:
        """Replace the gradient."""
        old = parameter.grad
        self._undo.append(lambda: setattr(parameter, "grad", old))
        parameter.grad = gradient

    def set_requires_grad(self, tensor: torch.Tensor, value: bool) -> None:
        """Freeze or thaw a parameter."""
        old = tensor.requires_grad
        if old != value:
            self._undo.append(lambda: setattr(tensor, "requires_grad", old))
            tensor.requires_grad_(value)

    def set_attribute(self, owner: object, name: str, value: Any) -> None:
        """Set a plain instance attribute, past any ``__setattr__`` of the class."""
        self.set_item(owner.__dict__, name, value)

    def record(self, undo: Callable[[], None]) -> None:
        """Remember how to undo something that is about to be done elsewhere, or that may be left undone."""
        self._undo.append(undo)

    def set_item(self, mapping: MutableMapping[Any, Any], key: Any, value: Any) -> None:
        """Set an entry of a mapping."""
        old = mapping.get(key, _MISSING)

        def undo() -> None:
            if old is _MISSING:
                mapping.pop(key, None)
            else:
                mapping[key] = old

        self._undo.append(undo)
        mapping[key] = value

    def replace_items(self, mapping: MutableMapping[Any, Any], items: dict[Any, Any]) -> None:
        """Replace all entries of a mapping in place, order included."""
        old = dict(mapping)

        def put(entries: dict[Any, Any]) -> None:
            mapping.clear()
            mapping.update(entries)

        self._undo.append(lambda: put(old))
        put(items)

    def replace_list(self, target: list[Any], items: list[Any]) -> None:
        """Replace the contents of a list in place."""
        old = list(target)

        def undo() -> None:
            target[:] = old

        self._undo.append(undo)
        target[:] = items

    def set_class(self, module: nn.Module, cls: type[nn.Module]) -> None:
        """Change the class of a module."""
        old = type(module)
        self._undo.append(lambda: setattr(module, "__class__", old))
        module.__class__ = cls

    def insert_child(self, parent: nn.Module, name: str, child: nn.Module, after: str | None) -> None:
        """Register a child behind its sibling ``after``, or last."""
        items: dict[str, nn.Module | None] = {}
        for key, value in parent._modules.items():
            items[key] = value
            if key == after:
                items[name] = child
        items.setdefault(name, child)
        self.replace_items(parent._modules, items)

    def remove_child(self, parent: nn.Module, name: str) -> None:
        """Unregister a child."""
        items = {key: value for key, value in parent._modules.items() if key != name}
        self.replace_items(parent._modules, items)

    def replace_child(self, parent: nn.Module, name: str, child: nn.Module) -> None:
        """Put a child in the place of another."""
        items = {key: child if key == name else value for key, value in parent._modules.items()}
        self.replace_items(parent._modules, items)


def _swap(tensor: torch.Tensor, data: torch.Tensor) -> None:
    """Change the storage of a tensor that graphs may still refer to.

    Going through an empty tensor of another dtype drops the cached gradient accumulator; without that,
    assigning another shape fails while any old loss is alive.
    """
    if tensor.grad is not None:
        tensor.grad = None
    other = torch.float64 if tensor.dtype != torch.float64 else torch.float32
    tensor.data = _nothing(other, tensor.device)
    tensor.data = data


@cache
def _nothing(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.empty(0, dtype=dtype, device=device)
