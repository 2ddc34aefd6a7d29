"""Whole numbers as calling code has them at hand: plain, of NumPy, of whatever can index a list."""

from __future__ import annotations

from operator import index
from typing import Any


def whole(value: Any) -> Any:
    """Return what stands for a whole number as a plain int; whatever else is wrong stays as it is.

    A bool is no number here, and a float is no whole one, whatever its value.
    """
    if isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool"):
        return value
    try:
        return int(index(value))
    except (TypeError, ValueError, RuntimeError):
        return value
