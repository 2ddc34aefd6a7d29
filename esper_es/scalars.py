"""Numbers as training code has them at hand: plain, of NumPy, or in tensors without dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, SupportsFloat

from esper_es.domain.errors import UsageError

Number = float | SupportsFloat
"""A plain number, a NumPy scalar, or an array or tensor without dimensions, on any device."""


def plain_numbers(values: Mapping[str, Number], what: str) -> dict[str, Any]:
    """Return values by name, scalars of NumPy and torch as plain numbers; whatever else is wrong stays as it is.

    Raises:
        UsageError: if a scalar does not give its number away, e.g. on the meta device.
    """
    return {name: _plain(value, f"{what}[{name!r}]") for name, value in values.items()}


def _plain(value: Any, where: str) -> Any:
    if getattr(value, "shape", None) != () or not hasattr(value, "item"):
        return value
    try:
        return value.item()
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise UsageError(f"{where} must be a number, got {type(value).__name__}: {error}") from None
