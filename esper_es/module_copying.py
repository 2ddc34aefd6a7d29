"""Deep copies of modules, as ``copy.deepcopy`` makes them, in a fraction of its time: a module has some twenty
attributes, most of them numbers or empty, and ``copy.deepcopy`` asks each how it would like to be copied."""

from __future__ import annotations

import copy
import copyreg
from collections import OrderedDict
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType
from typing import Any

from torch import nn

_ATOMS = frozenset(
    (type(None), bool, int, float, complex, str, bytes, type, FunctionType, BuiltinFunctionType)
)


def deep_copy(module: nn.Module, copied: Mapping[int, object]) -> nn.Module:
    """Return a deep copy of a module.

    Args:
        module: what to copy.
        copied: copies of parts of it that are to be used, by the identities of these.

    Raises: whatever a part of it raises that can't be copied.
    """
    memo: dict[int, Any] = dict(copied)
    states = []
    for part in module.modules():
        state = None if id(part) in memo else _state(part)
        if state is not None:
            memo[id(part)] = type(part).__new__(type(part))
            states.append((memo[id(part)], state))
    for part, state in reversed(states):  # a parent may look at its children once it is given its state
        part.__setstate__(
            {name: value if type(value) in _ATOMS else _copied(value, memo) for name, value in state.items()}
        )
    return copy.deepcopy(module, memo)


def _state(part: nn.Module) -> dict[str, Any] | None:
    """The attributes of which a copy consists; None if the module says otherwise how it is to be copied."""
    if getattr(type(part), "__deepcopy__", None) or "__deepcopy__" in vars(part):
        return None
    if type(part) in copyreg.dispatch_table:
        return None
    reduced = part.__reduce_ex__(4)
    if not isinstance(reduced, tuple) or len(reduced) < 3 or any(item is not None for item in reduced[3:]):
        return None
    make, arguments, state = reduced[:3]
    plain = make is copyreg.__newobj__ and arguments == (type(part),)  # type: ignore[attr-defined]
    return state if plain and type(state) is dict else None


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in _ATOMS:
        return value
    known = memo.get(id(value))
    if known is not None:
        return known
    if kind is dict or kind is OrderedDict:
        same = memo[id(value)] = kind()
        for key, item in value.items():
            key = key if type(key) in _ATOMS else _copied(key, memo)
            same[key] = item if type(item) in _ATOMS else _copied(item, memo)
        return same
    if kind is tuple and all(type(item) in _ATOMS for item in value):
        return value
    if kind is set and all(type(item) in _ATOMS for item in value):
        return memo.setdefault(id(value), set(value))
    return copy.deepcopy(value, memo)
