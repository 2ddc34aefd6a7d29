"""Counts and outcomes of surgeries: a projection of a model's facts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from attrs import define, field

from esper_es.domain.envelope import Envelope
from esper_es.domain.facts import (
    LayerAdded,
    LayerRemoved,
    LayerWidthModified,
    RolledBack,
    SkipConnectionAdded,
    SkipConnectionRemoved,
    SurgeryRefused,
    WatchClosed,
    WatchOpened,
)

Surgery = LayerAdded | LayerRemoved | LayerWidthModified | SkipConnectionAdded | SkipConnectionRemoved

OPERATIONS: dict[type, str] = {
    LayerAdded: "add_layer",
    LayerRemoved: "remove_layer",
    LayerWidthModified: "modify_layer_width",
    SkipConnectionAdded: "add_skip_connection",
    SkipConnectionRemoved: "remove_skip_connection",
}


class Outcome(Protocol):
    """What ``record_surgery`` needs of a ``SurgeryResult``."""

    @property
    def success(self) -> bool: ...
    @property
    def operation(self) -> str: ...


@define
class SurgeryMetrics:
    """Surgery operations and their outcomes; names are the plan's.

    Attributes:
        total_surgeries: asked for.
        successful_surgeries: carried out.
        failed_surgeries: refused.
        rollback_count: rollbacks, asked for or by a watch.
        surgeries_by_type: carried out, by operation.
        performance_impact: last change of the watched metric after a surgery, by operation.
        average_surgery_time_ms: of those carried out, up to the commit.
        peak_memory_usage_mb: largest estimated training memory after a surgery, in MB (1e6 bytes).
    """

    total_surgeries: int = 0
    successful_surgeries: int = 0
    failed_surgeries: int = 0
    rollback_count: int = 0
    surgeries_by_type: dict[str, int] = field(factory=dict)
    performance_impact: dict[str, float] = field(factory=dict)
    average_surgery_time_ms: float = 0.0
    peak_memory_usage_mb: float = 0.0

    @classmethod
    def of(cls, history: Iterable[Envelope]) -> SurgeryMetrics:
        """Fold a model's facts, from the first on."""
        metrics = cls()
        watches: dict[int, tuple[str, float]] = {}
        names: dict[int, str] = {}
        for envelope in history:
            fact = envelope.fact
            if isinstance(fact, Surgery):
                names[envelope.version] = OPERATIONS[type(fact)]
                metrics._carried_out(names[envelope.version], fact)
            elif isinstance(fact, SurgeryRefused) and fact.operation in OPERATIONS.values():
                metrics.total_surgeries += 1
                metrics.failed_surgeries += 1
            elif isinstance(fact, RolledBack):
                metrics.rollback_count += 1
            elif isinstance(fact, WatchOpened):
                watches[fact.subject_version] = (names[fact.subject_version], fact.baseline)
            elif isinstance(fact, WatchClosed):
                operation, baseline = watches[fact.subject_version]
                metrics.performance_impact[operation] = fact.observed - baseline
        return metrics

    def _carried_out(self, operation: str, fact: Surgery) -> None:
        before = self.average_surgery_time_ms * self.successful_surgeries
        self.total_surgeries += 1
        self.successful_surgeries += 1
        self.surgeries_by_type[operation] = self.surgeries_by_type.get(operation, 0) + 1
        self.average_surgery_time_ms = (before + fact.effects.duration_ms) / self.successful_surgeries
        self.peak_memory_usage_mb = max(self.peak_memory_usage_mb, fact.effects.memory_bytes / 1e6)

    def record_surgery(self, result: Outcome, performance_delta: float) -> None:
        """Count one result by hand, for trainers that keep metrics of their own.

        Args:
            result: of a surgery.
            performance_delta: change of the metric after it.
        """
        self.total_surgeries += 1
        if not result.success:
            self.failed_surgeries += 1
            return
        self.successful_surgeries += 1
        self.surgeries_by_type[result.operation] = self.surgeries_by_type.get(result.operation, 0) + 1
        self.performance_impact[result.operation] = performance_delta
