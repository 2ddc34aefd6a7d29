"""Time by phase."""

from __future__ import annotations

import time

from attrs import define, field


@define
class Stopwatch:
    """Milliseconds by phase."""

    _started: float = field(factory=time.perf_counter)
    _last: float = field(factory=time.perf_counter)
    phases: dict[str, float] = field(factory=dict)

    def lap(self, phase: str) -> None:
        """End a phase."""
        moment = time.perf_counter()
        self.phases[phase] = (moment - self._last) * 1e3
        self._last = moment

    def total(self) -> float:
        """Milliseconds since the start."""
        return (time.perf_counter() - self._started) * 1e3
