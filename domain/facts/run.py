"""A process takes up a model that the log knows."""

from __future__ import annotations

from attrs import frozen

from esper_es.domain.facts.environment import Environment


@frozen(kw_only=True)
class RunResumed:
    """A process attached a live model to the log; it holds the state of the version before, bit for bit.

    Attributes:
        environment: of the process.
        left_out: random generators that are not what they were; see ``RolledBack.left_out``.
        fresh: parts that were not restored, because they begin anew: ``"optimizer"``, ``"scheduler"``, ``"scaler"``.
    """

    environment: Environment
    left_out: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
