"""Commands of the four surgeries: guard, then say which facts would hold."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import evolve, frozen

from esper_es.domain import rules
from esper_es.domain.edits import Edit
from esper_es.domain.facts import (
    Effects,
    Fact,
    LayerAdded,
    LayerRemoved,
    LayerWidthModified,
    SkipConnectionAdded,
    SkipConnectionRemoved,
    StateCaptured,
    WatchOpened,
)
from esper_es.domain.index_map import IndexMap
from esper_es.domain.state import ModelState


@frozen(kw_only=True)
class Change:
    """A change that a planner resolved and the validators accepted.

    Attributes:
        edits: what the live projection will do.
        effects: what it does, measured on a copy.
        capture: the state before, stored in the vault; None when the policy asks for none.
    """

    edits: tuple[Edit, ...]
    effects: Effects
    capture: StateCaptured | None = None

    def base_capture(self, state: ModelState) -> int | None:
        """Version that the capture will have when it is committed right before the change."""
        return None if self.capture is None else state.version + 1

    def facts(self, state: ModelState, *following: Fact) -> tuple[Fact, ...]:
        if self.capture is None:
            return following
        return (evolve(self.capture, of_version=state.version), *following)


def add_layer(
    state: ModelState,
    change: Change,
    *,
    layer_name: str,
    after_layer: str,
    connection_type: str,
    kind: str,
) -> tuple[Fact, ...]:
    """Insert a layer.

    Raises:
        Refused: when a constraint forbids it.
    """
    rules.check_frequency(state)
    rules.check_layers_added(state)
    rules.resulting(state, change.edits, change.effects)
    fact = LayerAdded(
        layer_name=layer_name,
        after_layer=after_layer,
        connection_type=connection_type,
        kind=kind,
        edits=change.edits,
        effects=change.effects,
        base_capture=change.base_capture(state),
    )
    return _with_watch(state, change.facts(state, fact))


def remove_layer(
    state: ModelState,
    change: Change,
    *,
    layer_name: str,
    bridge_strategy: str,
    adapter_added: bool,
    bridge_r2: float | None,
) -> tuple[Fact, ...]:
    """Take a layer out.

    Raises:
        Refused: when a constraint forbids it.
    """
    rules.check_frequency(state)
    rules.check_layers_removed(state)
    rules.resulting(state, change.edits, change.effects)
    fact = LayerRemoved(
        layer_name=layer_name,
        bridge_strategy=bridge_strategy,
        adapter_added=adapter_added,
        bridge_r2=bridge_r2,
        edits=change.edits,
        effects=change.effects,
        base_capture=change.base_capture(state),
    )
    return _with_watch(state, change.facts(state, fact))


def modify_layer_width(
    state: ModelState,
    change: Change,
    *,
    layer_name: str,
    old_width: int,
    new_width: int,
    initialization: str,
    kept_units: Iterable[int] | None,
    dimension: int | None = None,
    units: tuple[int, int] | None = None,
    method: str = "",
) -> tuple[Fact, ...]:
    """Widen or narrow a layer.

    Raises:
        Refused: when a constraint forbids it.
    """
    rules.check_frequency(state)
    rules.check_width(state, old_width, new_width)
    rules.resulting(state, change.edits, change.effects)
    fact = LayerWidthModified(
        layer_name=layer_name,
        old_width=old_width,
        new_width=new_width,
        initialization=initialization,
        kept_units=None if kept_units is None else IndexMap.of(kept_units),
        dimension=dimension,
        units=units,
        method=method,
        edits=change.edits,
        effects=change.effects,
        base_capture=change.base_capture(state),
    )
    return _with_watch(state, change.facts(state, fact))


def add_skip_connection(
    state: ModelState,
    change: Change,
    *,
    from_layer: str,
    to_layer: str,
    connection_type: str,
    connection_id: str,
    projection: str | None,
) -> tuple[Fact, ...]:
    """Join the output of one layer to that of a later one.

    Raises:
        Refused: when a constraint forbids it.
    """
    rules.check_frequency(state)
    rules.check_skip_count(state)
    rules.resulting(state, change.edits, change.effects)
    fact = SkipConnectionAdded(
        from_layer=from_layer,
        to_layer=to_layer,
        connection_type=connection_type,
        connection_id=connection_id,
        projection=projection,
        edits=change.edits,
        effects=change.effects,
        base_capture=change.base_capture(state),
    )
    return _with_watch(state, change.facts(state, fact))


def remove_skip_connection(
    state: ModelState, change: Change, *, from_layer: str, to_layer: str, connection_id: str
) -> tuple[Fact, ...]:
    """Take a skip connection away again.

    Raises:
        Refused: when a constraint forbids it.
    """
    rules.check_frequency(state)
    rules.resulting(state, change.edits, change.effects)
    fact = SkipConnectionRemoved(
        from_layer=from_layer,
        to_layer=to_layer,
        connection_id=connection_id,
        edits=change.edits,
        effects=change.effects,
        base_capture=change.base_capture(state),
    )
    return _with_watch(state, change.facts(state, fact))


def _with_watch(state: ModelState, facts: tuple[Fact, ...]) -> tuple[Fact, ...]:
    """Put the surgery, the last of ``facts``, on trial when a watch policy and a baseline exist."""
    policy = state.watch_policy
    if policy is None or policy.metric not in state.lineage.metrics:
        return facts
    minimum, required = rules.watch_thresholds(state.constraints)
    opened = WatchOpened(
        subject_version=state.version + len(facts),
        metric=policy.metric,
        mode=policy.mode,
        baseline=state.lineage.metrics[policy.metric],
        minimum_score=minimum,
        required_score=required,
        until_epoch=state.epoch + policy.epochs,
    )
    return (*facts, opened)
