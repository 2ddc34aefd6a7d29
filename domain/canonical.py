"""One byte string per value: canonical JSON, and SHA-256 over it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

Json = Any
"""A JSON value: None, bool, int, float, str, list/tuple of Json, mapping of str to Json."""


def canonical_bytes(value: Json) -> bytes:
    """Return the one encoding of a JSON value: sorted keys, no spaces, ASCII, no NaN.

    Raises:
        ValueError: for NaN or infinity, which JSON cannot carry.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def fingerprint_of(value: Json) -> str:
    """Return ``sha256:<hex>`` over the canonical bytes of a JSON value."""
    return f"sha256:{hashlib.sha256(canonical_bytes(value)).hexdigest()}"


def merkle_root(leaves: Iterable[str]) -> str:
    """Return ``sha256:<hex>`` over leaf fingerprints, which the caller has put in order."""
    joined = "\n".join(leaves).encode("ascii")
    return f"sha256:{hashlib.sha256(joined).hexdigest()}"


def finite_numbers(values: Mapping[str, float], what: str) -> dict[str, float]:
    """Return ``values`` as floats after checking that each is a finite number.

    Raises:
        ValueError: naming the first key whose value is not a finite number.
    """
    for key, value in values.items():
        if not isinstance(key, str):
            raise ValueError(f"{what} names must be strings, got {key!r}")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{what}[{key!r}] must be a number, got {type(value).__name__}")
        if not _is_finite(value):
            raise ValueError(f"{what}[{key!r}] is {value}; facts hold finite numbers only")
    return {key: float(value) for key, value in values.items()}


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False
