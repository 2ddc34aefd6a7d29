"""Alpha schedules: how the weight of a seed's branch moves from one value to another, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from attrs import field, frozen
from attrs.validators import ge, in_, instance_of, le


def _linear(progress: float) -> float:
    return progress


def _cosine(progress: float) -> float:
    return 0.5 * (1.0 - math.cos(math.pi * progress))


CURVES: Mapping[str, Callable[[float], float]] = {"linear": _linear, "cosine": _cosine}


@frozen(kw_only=True)
class AlphaSchedule:
    """A ramp of alpha.

    Attributes:
        curve: ``"linear"`` or ``"cosine"``.
        start: alpha before the first epoch of the ramp, in [0, 1].
        target: alpha after the last one, in [0, 1].
        epochs: length of the ramp, at least 1.
    """

    curve: str = field(default="linear", validator=in_(tuple(CURVES)))
    start: float = field(default=0.0, validator=[ge(0.0), le(1.0)])
    target: float = field(default=1.0, validator=[ge(0.0), le(1.0)])
    epochs: int = field(default=5, validator=[instance_of(int), ge(1)])

    def alpha(self, elapsed: int) -> float:
        """Return alpha ``elapsed`` epochs after the ramp began; exactly ``target`` from its end on."""
        if elapsed >= self.epochs:
            return self.target
        share = CURVES[self.curve](max(elapsed, 0) / self.epochs)
        return self.start + (self.target - self.start) * share

    def progress(self, elapsed: int) -> float:
        """Return the elapsed share of the ramp, in [0, 1]."""
        return min(max(elapsed, 0) / self.epochs, 1.0)
