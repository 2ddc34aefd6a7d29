"""Plain values (of optimizers, schedulers, scalers) as JSON that loses nothing and can run nothing.

Tensors are taken out and named; numbers that JSON lacks, tuples and dictionaries with other keys are tagged.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from esper_es.domain.canonical import Json
from esper_es.domain.errors import IntegrityFailure, UsageError

_TAG = "$"


def to_json(value: Any, what: str, store: Callable[[str, torch.Tensor], None]) -> Json:
    """Return JSON for a value.

    Args:
        value: None, bool, int, float, str, tensors, and lists, tuples, dicts and Counters of these.
        what: where the value stands, for names and errors.
        store: takes each tensor with its name.

    Raises:
        UsageError: for any other type, naming where it stands.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, torch.Tensor):
        store(what, value)
        return {_TAG: "tensor", "name": what}
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else {_TAG: "int", "value": str(value)}
    if isinstance(value, float):
        return value if math.isfinite(value) else {_TAG: "float", "value": repr(value)}
    if isinstance(value, tuple):
        return {_TAG: "tuple", "items": [to_json(v, f"{what}/{i}", store) for i, v in enumerate(value)]}
    if isinstance(value, list):
        return [to_json(v, f"{what}/{i}", store) for i, v in enumerate(value)]
    if isinstance(value, dict):
        tag = "counter" if isinstance(value, Counter) else "dict"
        pairs = [
            [to_json(k, f"{what}/key", store), to_json(v, f"{what}/{k}", store)] for k, v in value.items()
        ]
        return {_TAG: tag, "items": pairs}
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return to_json(value.item(), what, store)
    raise UsageError(f"{what} is a {type(value).__name__}, which can't be captured without pickle")


def from_json(value: Json, tensor: Callable[[str], torch.Tensor]) -> Any:
    """Return the value that ``to_json`` was given; ``tensor`` finds tensors by name.

    Raises:
        IntegrityFailure: for JSON that ``to_json`` never makes.
    """
    if isinstance(value, list):
        return [from_json(item, tensor) for item in value]
    if not isinstance(value, dict):
        return value
    tag = value.get(_TAG)
    if tag == "tensor":
        return tensor(value["name"])
    if tag == "int":
        return int(value["value"])
    if tag == "float":
        return float(value["value"])
    if tag == "tuple":
        return tuple(from_json(item, tensor) for item in value["items"])
    if tag in ("dict", "counter"):
        pairs = {from_json(k, tensor): from_json(v, tensor) for k, v in value["items"]}
        return Counter(pairs) if tag == "counter" else pairs
    raise IntegrityFailure(f"a manifest holds a value with the unknown tag {tag!r}")
