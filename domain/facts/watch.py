"""A surgery is on trial."""

from __future__ import annotations

from attrs import field, frozen

from esper_es.domain.facts.finite import finite_number


@frozen(kw_only=True)
class WatchOpened:
    """A surgery is on trial."""

    subject_version: int
    metric: str
    mode: str
    baseline: float = field(validator=finite_number)
    minimum_score: float = field(validator=finite_number)
    required_score: float = field(validator=finite_number)
    until_epoch: int


@frozen(kw_only=True)
class WatchClosed:
    """The trial ended.

    Attributes:
        subject_version: the surgery.
        outcome: ``"kept"``, ``"rolled_back"``, or ``"failed_but_kept"`` (it fell too far, and no capture from
            before it is left to go back to).
        observed: the metric's value that decided.
        score: its share of the baseline.
        reason: which threshold decided.
    """

    subject_version: int
    outcome: str
    observed: float = field(validator=finite_number)
    score: float = field(validator=finite_number)
    reason: str
