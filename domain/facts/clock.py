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
    """The run moved on from a version that can be restored.

    It keeps versions unambiguous: the version before it means the state at its commit, this one the state
    that was found afterwards.

    Attributes:
        step: how many optimizer steps the log has seen.
        moved: empty for the first optimizer step. Otherwise the parts that were found changed without one, in
            the order ``"module"``, ``"optimizer"``, ``"scheduler"``, ``"scaler"``, ``"modes"`` (training
            flags), ``"generators"``.
    """

    step: int
    moved: tuple[str, ...] = ()

    @property
    def aside(self) -> bool:
        """Say whether only random generators or training flags moved, and no byte of what was learned."""
        return bool(self.moved) and set(self.moved) <= ASIDE


ASIDE = frozenset(("modes", "generators"))
"""Parts of a run that evaluating it or drawing a batch moves."""
