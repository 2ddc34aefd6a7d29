"""Nested arguments and results of modules: where their tensors stand, and how one of them is replaced.

The *stream* of a result is the tensor that new data flow acts on: its first floating-point tensor, or its first
tensor where none floats. Blocks return it in front of caches and attention weights, or behind an entry of None.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

Location = tuple[int | str, ...]
"""Keys, positions and field names that lead to an entry; empty for the value itself."""
_LEAVES = (torch.Tensor, type(None), bool, int, float, str)
"""Not asked whether they are dataclasses: older compilers can't answer that of None (torch 2.11)."""


def entries(value: Any) -> Iterator[tuple[int | str, Any]]:
    """Yield the direct entries of a structure; nothing for a leaf."""
    if isinstance(value, _LEAVES):
        return
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, (tuple, list)):
        yield from enumerate(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield field.name, getattr(value, field.name)


def leaves(value: Any) -> Iterator[tuple[Location, Any]]:
    """Yield every leaf of a nested value with its location, in order."""
    inner = list(entries(value))
    if not inner:
        yield (), value
    for key, entry in inner:
        for location, leaf in leaves(entry):
            yield (key, *location), leaf


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Return the tensors of a nested value, in order."""
    return [leaf for _, leaf in leaves(value) if isinstance(leaf, torch.Tensor)]


def stream_in(value: Any) -> Location | None:
    """Return where the stream of a result stands; None where there is no tensor."""
    tensors = [(location, leaf) for location, leaf in leaves(value) if isinstance(leaf, torch.Tensor)]
    floating = [location for location, tensor in tensors if tensor.is_floating_point() or tensor.is_complex()]
    return next(iter([*floating, *(location for location, _ in tensors)]), None)


def entry_at(value: Any, location: Location) -> Any:
    """Return the entry at a location."""
    for key in location:
        value = _entry(value, key)
    return value


def _entry(value: Any, key: int | str) -> Any:
    if isinstance(value, (Mapping, tuple, list)):
        return value[key]  # type: ignore[index]
    return getattr(value, str(key))


def with_entry(value: Any, location: Location, entry: Any) -> Any:
    """Return the structure with another entry at a location; the value itself is left as it is."""
    if not location:
        return entry
    key, *rest = location
    return _replaced(value, key, with_entry(_entry(value, key), tuple(rest), entry))


def _replaced(value: Any, key: int | str, entry: Any) -> Any:
    if isinstance(value, (tuple, list)):
        items = [entry if position == key else item for position, item in enumerate(value)]
        return _like(value, items)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, **{str(key): entry})
    if type(value) is dict:
        return {**value, key: entry}
    copied = value.copy()
    copied[key] = entry
    return copied


def _like(value: tuple[Any, ...] | list[Any], items: list[Any]) -> Any:
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*items)
    return type(value)(items)


def on_stream(output: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Return a module's output with a function applied to its stream.

    Raises:
        TypeError: if there is no tensor in it.
    """
    if isinstance(output, torch.Tensor):
        return function(output)
    location = stream_in(output)
    if location is None:
        raise TypeError(f"a module that returns {type(output).__name__} can't host added connections")
    return with_entry(output, location, function(entry_at(output, location)))
