"""The rules of torch's own operators, by what the operators do to channels."""

from __future__ import annotations

from esper_es.tracing import (
    contraction_rules,
    elementwise_rules,
    estimate_rules,
    joining_rules,
    lookup_rules,
    movement_rules,
    norm_rules,
    reduction_rules,
    scatter_rules,
    spatial_rules,
)

__all__ = [
    "contraction_rules",
    "elementwise_rules",
    "estimate_rules",
    "joining_rules",
    "lookup_rules",
    "movement_rules",
    "norm_rules",
    "reduction_rules",
    "scatter_rules",
    "spatial_rules",
]
