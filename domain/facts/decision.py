"""Somebody decides, and what comes of it."""

from __future__ import annotations

from attrs import frozen

from esper_es.domain.decisions import AdaptationDecision


@frozen(kw_only=True)
class DecisionReceived:
    """Somebody decided that the model should change."""

    decision: AdaptationDecision


@frozen(kw_only=True)
class DecisionSettled:
    """What came of a decision.

    Attributes:
        decision_id: the decision.
        outcome: ``"applied"`` or ``"refused"``.
        reason: of a refusal.
    """

    decision_id: str
    outcome: str
    reason: str = ""
