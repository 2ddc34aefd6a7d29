"""A process takes up a model that the log knows."""

from __future__ import annotations

from attrs import frozen

from esper_es.domain.facts.environment import Environment


@frozen(kw_only=True)
class RunResumed:
    """A process attached a live model to the log; it holds the state of the version before, bit for bit."""

    environment: Environment
