"""Nested arguments and results: find their tensors, copy them, describe their structure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

_INSIDES = ("hidden_states", "attentions", "router_logits")


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All tensors in a nested value, attributes of plain objects (caches, output records) included."""
    if isinstance(value, torch.Tensor):
        yield value
    else:
        yield from _search(value, set())


def _search(value: Any, seen: set[int]) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
        return
    if value is None or isinstance(value, str | bytes | int | float | complex | nn.Module | type):
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Mapping):
        children = list(value.values())
    elif isinstance(value, list | tuple | set | frozenset):
        children = list(value)
    else:
        children = list(getattr(value, "__dict__", {}).values())
    for child in children:
        yield from _search(child, seen)


BYPRODUCTS = frozenset(
    (
        "past_key_values",
        "encoder_last_hidden_state",
        *(f"{part}{kind}" for part in ("", "encoder_", "decoder_", "cross_") for kind in _INSIDES),
    )
)
"""Entries of a ``ModelOutput`` of transformers that show a model's insides, not its result: their sizes follow the
layers that they come from."""


def result_tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors that a model was run for: all of its output but caches of keys and values, and other insides."""
    if isinstance(value, Mapping):
        record = _is_of_transformers(value, "ModelOutput")
        for key, item in value.items():
            if not (record and key in BYPRODUCTS):
                yield from result_tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from result_tensors(item)
    elif not _is_of_transformers(value, "Cache"):
        yield from tensors_in(value)


def _is_of_transformers(value: Any, name: str) -> bool:
    return any(
        kind.__name__ == name and kind.__module__.partition(".")[0] == "transformers"
        for kind in type(value).__mro__
    )


def cloned(value: Any) -> Any:
    """A copy whose tensors are detached clones; other leaves are the same objects."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(cloned(item) for item in value))
    if type(value) in (list, tuple):
        return type(value)(cloned(item) for item in value)
    if type(value) is dict:
        return {key: cloned(item) for key, item in value.items()}
    return value


def described(value: Any) -> str:
    """The structure of a value in words, such as ``tuple[Tensor, None]`` or ``ModelOutput{logits:
    Tensor}``."""
    if isinstance(value, torch.Tensor):
        return "Tensor"
    kind = type(value).__name__
    if value is None:
        return "None"
    if isinstance(value, Mapping):
        return f"{kind}{{{', '.join(f'{key}: {described(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"{kind}[{', '.join(described(item) for item in value)}]"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (f"{f.name}: {described(getattr(value, f.name))}" for f in dataclasses.fields(value))
        return f"{kind}{{{', '.join(fields)}}}"
    return kind
