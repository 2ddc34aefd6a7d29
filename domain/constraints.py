"""Limits on surgery that the aggregate enforces, and the rules that read them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from attrs import Attribute, field, fields, frozen

from esper_es.domain.errors import Refused
from esper_es.domain.whole_numbers import whole


def _number(minimum: float, integer: bool) -> Callable[[object, Attribute[Any], Any], None]:
    def check(_: object, attribute: Attribute[Any], value: Any) -> None:
        wanted = int if integer else (int, float)
        if isinstance(value, bool) or not isinstance(value, wanted) or not math.isfinite(value):
            kind = "an integer" if integer else "a finite number"
            raise ValueError(f"SurgeryConstraints.{attribute.name} must be {kind}, got {value!r}")
        if value < minimum:
            raise ValueError(f"SurgeryConstraints.{attribute.name} must be at least {minimum}, got {value}")

    return check


@frozen(kw_only=True)
class SurgeryConstraints:
    """Constraints for model surgery operations; names and defaults are the plan's.

    Attributes:
        max_layers_to_add: layers added since birth and not rolled back.
        max_layers_to_remove: layers removed since birth and not rolled back.
        max_width_multiplier: new width over old width of one surgery.
        min_width_divisor: old width over new width of one surgery.
        min_epochs_between_surgeries: epochs between one epoch with surgeries and the next.
        max_surgeries_per_epoch: successful surgeries in one epoch.
        max_parameter_increase: parameters over those at birth (1.5 is 50% more).
        max_memory_increase_mb: estimated training memory over that at birth, in MB (1e6 bytes): parameters,
            gradients, optimizer state, buffers, and activations of the example inputs.
        max_skip_connections: skip connections in the model.
        max_graph_depth: parametrised operations on the longest path from an input to an output.
        required_validation_score: share of the score before the surgery that the watched metric must reach
            when the watch window ends.
        rollback_on_performance_drop: relative drop of the watched metric, at any epoch of the watch window,
            that rolls the surgery back at once.
    """

    max_layers_to_add: int = field(default=5, converter=whole, validator=_number(0, True))
    max_layers_to_remove: int = field(default=3, converter=whole, validator=_number(0, True))
    max_width_multiplier: float = field(default=2.0, converter=whole, validator=_number(1, False))
    min_width_divisor: float = field(default=2.0, converter=whole, validator=_number(1, False))
    min_epochs_between_surgeries: int = field(default=10, converter=whole, validator=_number(0, True))
    max_surgeries_per_epoch: int = field(default=2, converter=whole, validator=_number(0, True))
    max_parameter_increase: float = field(default=1.5, converter=whole, validator=_number(1, False))
    max_memory_increase_mb: float = field(default=500, converter=whole, validator=_number(0, False))
    max_skip_connections: int = field(default=10, converter=whole, validator=_number(0, True))
    max_graph_depth: int = field(default=100, converter=whole, validator=_number(1, True))
    required_validation_score: float = field(default=0.9, converter=whole, validator=_number(0, False))
    rollback_on_performance_drop: float = field(default=0.1, converter=whole, validator=_number(0, False))


def require_at_most(limit_name: str, value: float, limit: float, what: str) -> None:
    """Refuse when ``value`` exceeds the limit called ``limit_name``.

    Raises:
        Refused: with the limit's name as its check.
    """
    if value > limit:
        raise Refused(f"{what}: {value:g} would exceed {limit_name}={limit:g}", limit_name)


CONSTRAINT_NAMES: tuple[str, ...] = tuple(attribute.name for attribute in fields(SurgeryConstraints))
