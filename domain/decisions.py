"""Decisions of a policy or a person to adapt a model, with one typed parameter set per adaptation type."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from attrs import Attribute, field, frozen
from attrs.validators import instance_of, optional

from esper_es.domain.canonical import Json, canonical_bytes
from esper_es.domain.whole_numbers import whole

SURGERY_TYPES = ("add_neurons", "add_layer", "remove_layer", "add_skip_connection")
SEED_TYPES = ("add_seed", "remove_seed", "modify_architecture", "optimize_parameters")
ADAPTATION_TYPES = SURGERY_TYPES + SEED_TYPES

PARAMETERS: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    "add_neurons": {"new_width": (int,), "initialization": (str,)},
    "add_layer": {"layer_spec": (dict,), "connection_type": (str,), "layer_name": (str,)},
    "remove_layer": {"bridge_strategy": (str,)},
    "add_skip_connection": {"from_layer": (str,), "connection_type": (str,)},
    "add_seed": {"num_seeds": (int,), "kernels": (list,), "alpha": (int, float)},
    "remove_seed": {"alpha_step": (int, float)},
    "modify_architecture": {"num_seeds": (int,), "kernels": (list,)},
    "optimize_parameters": {"kernels": (list,), "threshold": (int, float)},
}
"""Parameters that each adaptation type takes, with their types."""

REQUIRED: Mapping[str, tuple[str, ...]] = {
    "add_layer": ("layer_spec",),
    "add_skip_connection": ("from_layer",),
}


def _plain_counts(parameters: Any) -> Any:
    if not isinstance(parameters, Mapping):
        return parameters
    return {name: whole(value) for name, value in parameters.items()}


def _number(_: object, attribute: Attribute[float], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"AdaptationDecision.{attribute.name} must be a finite number, got {value!r}")


def _unit_interval(instance: object, attribute: Attribute[float], value: float) -> None:
    _number(instance, attribute, value)
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"AdaptationDecision.{attribute.name} must be in [0, 1], got {value}")


@frozen(kw_only=True)
class AdaptationDecision:
    """A decision to adapt a model.

    Attributes:
        decision_id: the caller's own id; it follows every fact that the decision causes.
        layer_name: module path, 1 to 255 characters.
        adaptation_type: one of ``ADAPTATION_TYPES``.
        confidence: in [0, 1].
        urgency: in [0, 1].
        parameters: see ``PARAMETERS``.
        reasoning: why, in words.
        actor: who or what decided.
        metadata: anything else, as JSON.
        timestamp: seconds since the epoch, if the caller knows.

    Raises:
        ValueError: for a value that can never be right.
    """

    decision_id: str = field(validator=instance_of(str))
    layer_name: str = field(validator=instance_of(str))
    adaptation_type: str = field(validator=instance_of(str))
    confidence: float = field(validator=_unit_interval)
    urgency: float = field(default=0.5, validator=_unit_interval)
    parameters: Mapping[str, Json] = field(factory=dict, converter=_plain_counts)
    reasoning: str = field(default="", validator=instance_of(str))
    actor: str = field(default="policy", validator=instance_of(str))
    metadata: Mapping[str, Json] = field(factory=dict)
    timestamp: float | None = field(default=None, validator=optional(_number))

    @decision_id.validator
    def _check_id(self, _: object, value: str) -> None:
        if not value:
            raise ValueError("AdaptationDecision.decision_id must not be empty")

    @layer_name.validator
    def _check_layer(self, _: object, value: str) -> None:
        if not 1 <= len(value) <= 255:
            raise ValueError(f"AdaptationDecision.layer_name must have 1 to 255 characters, got {len(value)}")

    @adaptation_type.validator
    def _check_type(self, _: object, value: str) -> None:
        if value not in ADAPTATION_TYPES:
            raise ValueError(f"unknown adaptation_type {value!r}; known are {', '.join(ADAPTATION_TYPES)}")

    def __attrs_post_init__(self) -> None:
        known = PARAMETERS[self.adaptation_type]
        for name, value in self.parameters.items():
            if name not in known:
                raise ValueError(
                    f"{self.adaptation_type} takes no parameter {name!r}; it takes {sorted(known)}"
                )
            if isinstance(value, bool) or not isinstance(value, known[name]):
                wanted = " or ".join(t.__name__ for t in known[name])
                raise ValueError(
                    f"parameter {name!r} of {self.adaptation_type} must be {wanted}, got {value!r}"
                )
        for name in REQUIRED.get(self.adaptation_type, ()):
            if name not in self.parameters:
                raise ValueError(f"{self.adaptation_type} needs the parameter {name!r}")
        try:
            canonical_bytes([dict(self.parameters), dict(self.metadata)])
        except (TypeError, ValueError) as error:
            raise ValueError(f"parameters and metadata must be JSON with finite numbers: {error}") from None
