"""Standing orders given at attach and recorded in the log: what to capture, what to watch."""

from __future__ import annotations

from attrs import field, frozen
from attrs.validators import ge, in_, instance_of, optional

from esper_es.domain.whole_numbers import whole


@frozen(kw_only=True)
class CapturePolicy:
    """When the state is captured without being asked.

    Attributes:
        before_structural_change: right before every change of structure, so that undoing it is exact.
        every_n_epochs: also at every n-th ``epoch_end``; None for never.
        keep_last: how many captures stay restorable, besides the one at birth, those that an open watch needs,
            and the one that the run now stands on; None keeps all.
    """

    before_structural_change: bool = field(default=True, validator=instance_of(bool))
    every_n_epochs: int | None = field(
        default=None, converter=whole, validator=optional([instance_of(int), ge(1)])
    )
    keep_last: int | None = field(
        default=None, converter=whole, validator=optional([instance_of(int), ge(1)])
    )


@frozen(kw_only=True)
class WatchPolicy:
    """Which metric judges a surgery, and for how long.

    The thresholds are ``SurgeryConstraints.rollback_on_performance_drop`` and ``required_validation_score``.

    Attributes:
        metric: a key of the metrics given to ``epoch_end``.
        mode: ``"max"`` when more is better, ``"min"`` when less is.
        epochs: length of the window, in epochs.
    """

    metric: str = field(validator=instance_of(str))
    mode: str = field(default="max", validator=in_(("max", "min")))
    epochs: int = field(default=3, converter=whole, validator=[instance_of(int), ge(1)])


def score(observed: float, baseline: float, mode: str) -> float:
    """Return the share of the baseline that an observation reaches: 1.0 is no change, 0.9 a drop of 10%.

    The drop is relative to the baseline's magnitude, so that it holds for losses and negative metrics too.
    """
    worse_by = baseline - observed if mode == "max" else observed - baseline
    return 1.0 - worse_by / max(abs(baseline), 1e-12)
