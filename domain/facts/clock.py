"""Training moves on."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from esper_es.domain.facts.finite import finite


@frozen(kw_only=True)
class EpochEnded:
    """An epoch of training ended.

    Attributes:
        epoch: how many epochs the log has seen, this one included; never rewound.
        step: how many optimizer steps the log has seen.
        metrics: finite numbers.
    """

    epoch: int
    step: int
    metrics: Mapping[str, float] = field(factory=dict, validator=finite)


@frozen(kw_only=True)
class TrainingContinued:
    """The first optimizer step after a version that can be restored exactly.

    It keeps versions unambiguous: the version before it means the state at its commit, this one the state
    that training led to.
    """

    step: int
