"""What the constraints allow: pure checks over the state and a change that is about to be made."""

from __future__ import annotations

from collections.abc import Iterable

from esper_es.domain.architecture import Architecture
from esper_es.domain.constraints import SurgeryConstraints, require_at_most
from esper_es.domain.edits import Edit
from esper_es.domain.errors import Refused, UsageError
from esper_es.domain.evolution import evolved
from esper_es.domain.facts import Effects
from esper_es.domain.state import ModelState


def check_frequency(state: ModelState) -> None:
    """Refuse a surgery that comes too soon or too often.

    Raises:
        Refused: naming ``max_surgeries_per_epoch`` or ``min_epochs_between_surgeries``.
    """
    limits = state.constraints
    if limits is None:
        return
    if state.last_surgery_epoch == state.epoch:
        require_at_most(
            "max_surgeries_per_epoch",
            state.surgeries_this_epoch + 1,
            limits.max_surgeries_per_epoch,
            f"surgeries in epoch {state.epoch}",
        )
        return
    require_at_most(
        "max_surgeries_per_epoch", 1, limits.max_surgeries_per_epoch, f"surgeries in epoch {state.epoch}"
    )
    if state.last_surgery_epoch is None:
        return
    passed = state.epoch - state.last_surgery_epoch
    if passed < limits.min_epochs_between_surgeries:
        raise Refused(
            f"the last surgery was {passed} epochs ago; "
            f"min_epochs_between_surgeries={limits.min_epochs_between_surgeries}",
            "min_epochs_between_surgeries",
        )


def check_layers_added(state: ModelState) -> None:
    """Refuse one layer too many (``max_layers_to_add``)."""
    if state.constraints is not None:
        added = state.lineage.layers_added + 1
        require_at_most("max_layers_to_add", added, state.constraints.max_layers_to_add, "layers added")


def check_layers_removed(state: ModelState) -> None:
    """Refuse one removal too many (``max_layers_to_remove``)."""
    if state.constraints is not None:
        removed = state.lineage.layers_removed + 1
        require_at_most(
            "max_layers_to_remove", removed, state.constraints.max_layers_to_remove, "layers removed"
        )


def check_width(state: ModelState, old: int, new: int) -> None:
    """Refuse too wide or too narrow a step (``max_width_multiplier``, ``min_width_divisor``).

    Raises:
        UsageError: for a width below 1.
        Refused: naming the limit.
    """
    if old < 1 or new < 1:
        raise UsageError(f"a width is at least 1, got {old} -> {new}")
    limits = state.constraints
    if limits is None:
        return
    require_at_most(
        "max_width_multiplier", new / old, limits.max_width_multiplier, f"width {old} -> {new} multiplies by"
    )
    require_at_most(
        "min_width_divisor", old / new, limits.min_width_divisor, f"width {old} -> {new} divides by"
    )


def check_skip_count(state: ModelState) -> None:
    """Refuse one skip connection too many (``max_skip_connections``)."""
    if state.constraints is not None:
        skips = len(state.architecture.skips()) + 1
        require_at_most(
            "max_skip_connections", skips, state.constraints.max_skip_connections, "skip connections"
        )


def check_parameters(state: ModelState, count: int) -> None:
    """Refuse more parameters than ``max_parameter_increase`` allows; fewer than now are always allowed."""
    if state.constraints is None or count <= state.architecture.parameter_count:
        return
    born = max(state.base.architecture.parameter_count, 1)
    require_at_most(
        "max_parameter_increase",
        count / born,
        state.constraints.max_parameter_increase,
        f"{count} parameters over {born} at birth",
    )


def check_resources(state: ModelState, after: Architecture, effects: Effects) -> None:
    """Refuse a change that makes the model too large or too deep.

    Raises:
        Refused: naming ``max_parameter_increase``, ``max_memory_increase_mb`` or ``max_graph_depth``.
    """
    limits = state.constraints
    if limits is None:
        return
    check_parameters(state, after.parameter_count)
    if effects.memory_bytes > state.lineage.memory_bytes:
        require_at_most(
            "max_memory_increase_mb",
            (effects.memory_bytes - state.base.memory_bytes) / 1e6,
            limits.max_memory_increase_mb,
            "estimated memory over that at birth, MB",
        )
    if effects.graph_depth > state.lineage.graph_depth:
        require_at_most(
            "max_graph_depth", effects.graph_depth, limits.max_graph_depth, "operations on the longest path"
        )


def resulting(state: ModelState, edits: Iterable[Edit], effects: Effects) -> Architecture:
    """Return the architecture that ``edits`` lead to, once the resources allow it.

    Raises:
        Refused: when a limit is exceeded, or the edits do not fit the architecture.
    """
    try:
        after = evolved(state.architecture, edits)
    except ValueError as error:
        raise Refused(str(error), "architecture") from error
    check_resources(state, after, effects)
    return after


def watch_thresholds(constraints: SurgeryConstraints | None) -> tuple[float, float]:
    """Return ``(score below which a surgery is undone at once, score it must have at the window's end)``."""
    limits = constraints or SurgeryConstraints()
    return 1.0 - limits.rollback_on_performance_drop, limits.required_validation_score
