"""What a module of a known class keeps about the sizes of its tensors: one function per class, extensible.

A function gets the module and the sizes that change in it or below it, and answers with the attributes to set
and, where its ``forward`` ties one dimension to another, with the sizes that must change too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import field, frozen
from torch import nn

from esper_es.domain.canonical import Json
from esper_es.domain.errors import UsageError
from esper_es.projections.live.hosting import original_class

LocalDim = tuple[str, int]
"""A tensor by its name relative to a module, and one of its dimensions."""


@frozen
class SizeChange:
    """How one dimension changes.

    Attributes:
        old: size before.
        new: size after.
        old_units: units of the group before: heads, where the dimension holds whole heads.
        new_units: after.
        old_head: channels of one head before, where heads change their size and not their number; 0 elsewhere.
        new_head: after.
    """

    old: int
    new: int
    old_units: int
    new_units: int
    old_head: int = 0
    new_head: int = 0


Changes = Mapping[LocalDim, SizeChange]


@frozen
class WidthRepair:
    """What goes with changed sizes.

    Attributes:
        attributes: values to set on the module.
        sizes: dimensions that must have a certain size too, because the module's ``forward`` derives one from the
            other.
    """

    attributes: Mapping[str, Json] = field(factory=dict)
    sizes: Mapping[LocalDim, int] = field(factory=dict)


WidthAdapter = Callable[[Any, Changes], WidthRepair]

_ADAPTERS: dict[type[nn.Module] | str, WidthAdapter] = {}


def width_adapter(*classes: type[nn.Module] | str) -> Callable[[WidthAdapter], WidthAdapter]:
    """Register a function that repairs modules of a class, and of its subclasses, when their widths change.

    ``@esper_es.width_adapter(MyAttention)`` above ``def repair(module, changes) -> WidthRepair``. ``changes`` has
    an entry for every dimension of a tensor in or below the module that changes, by the tensor's name relative to
    the module; an empty ``WidthRepair()`` says that nothing else changes. What it answers is proven by a second
    trace like all else, and recorded. Later registrations win; a subclass wins over its base.

    Args:
        *classes: classes, or names such as ``"package.module.Class"`` of classes that need not be imported.

    Raises:
        UsageError: if one is neither a class of modules nor such a name.
    """
    for cls in classes:
        named = isinstance(cls, str) and "." in cls
        if not named and not (isinstance(cls, type) and issubclass(cls, nn.Module)):
            raise UsageError(
                f"width_adapter takes classes of nn.Module or 'package.module.Class', got {cls!r}"
            )

    def register(adapter: WidthAdapter) -> WidthAdapter:
        _ADAPTERS.update(dict.fromkeys(classes, adapter))
        return adapter

    return register


def adapter_for(module: nn.Module) -> WidthAdapter | None:
    """Return the function registered for a module's class or the nearest of its bases."""
    for cls in original_class(module).__mro__:
        found = _ADAPTERS.get(cls) or _ADAPTERS.get(f"{cls.__module__}.{cls.__qualname__}")
        if found is not None:
            return found
    return None


def sized(changes: Changes, names: Mapping[LocalDim, str]) -> WidthRepair:
    """Return a repair that sets attributes to the new sizes of dimensions, as far as these change."""
    return WidthRepair({name: changes[key].new for key, name in names.items() if key in changes})
