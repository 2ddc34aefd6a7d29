"""What an operation answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen


@frozen(kw_only=True)
class SurgeryResult:
    """Outcome of an operation on a model. A refused operation changed nothing.

    Attributes:
        success: whether it happened.
        operation: e.g. ``"add_layer"``.
        version: head of the log after it; the refusal itself is a fact.
        details: what happened, by name; for a refusal what was asked for.
        error: why it was refused, and what would be right.
        check: stable name of the rule or validator that refused.
        undo_version: version to roll back to in order to undo exactly this operation.
        timings_ms: milliseconds by phase: ``plan``, ``validate``, ``prove``, ``capture``, ``apply``, ``commit``; and
            ``total``.
    """

    success: bool
    operation: str
    version: int
    details: Mapping[str, Any] = field(factory=dict)
    error: str | None = None
    check: str | None = None
    undo_version: int | None = None
    timings_ms: Mapping[str, float] = field(factory=dict)

    @property
    def rollback_state(self) -> int | None:
        """Version that ``run.rollback`` takes to undo this operation; the plan's name for it."""
        return self.undo_version

    def __bool__(self) -> bool:
        return self.success
