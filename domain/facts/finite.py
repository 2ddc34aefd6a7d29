"""Field validators: JSON has no NaN and no infinity, so no fact may hold one."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import Attribute

from esper_es.domain.canonical import finite_numbers


def finite(instance: object, attribute: Attribute[Mapping[str, float]], value: Mapping[str, float]) -> None:
    """Refuse a mapping with a number that is not finite."""
    finite_numbers(value, f"{type(instance).__name__}.{attribute.name}")


def finite_number(instance: object, attribute: Attribute[float], value: float | None) -> None:
    """Refuse a number that is not finite; None is none."""
    if value is not None:
        finite_numbers({attribute.name: value}, type(instance).__name__)
