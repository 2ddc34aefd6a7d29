"""One visit to a model of the zoo, counted."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from attrs import frozen

from .outcomes import Outcome

SURGERIES = ("grow", "shrink", "larger heads", "smaller heads", "insert", "remove", "skip")


@frozen(kw_only=True)
class Visit:
    """All that was tried on one model.

    Attributes:
        species: name of the model.
        parameters: how many scalars it learns.
        compiles: whether it can be compiled as one graph.
        pins: for each group that can't come or go, why not.
        outcomes: of every surgery.
        replays: how many versions were replayed in another process.
        differing: which of them did not come back as they were.
        seconds: all of it.
    """

    species: str
    parameters: int
    compiles: bool
    pins: Sequence[str]
    outcomes: Sequence[Outcome]
    replays: int
    differing: Sequence[str]
    seconds: float

    def of(self, surgery: str) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.surgery == surgery]

    def done(self, surgery: str) -> str:
        """Return how many of a kind were done, of how many."""
        tried = self.of(surgery)
        return f"{sum(not outcome.refused for outcome in tried)}/{len(tried)}"

    @property
    def refused(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.refused]

    @property
    def wrong(self) -> list[str]:
        """Every law that did not hold."""
        broken = [f"{o.surgery} {o.target}: {problem}" for o in self.outcomes for problem in o.wrong]
        return [*broken, *self.differing]

    @property
    def moved(self) -> list[float]:
        """How far outputs moved that may differ by the order of sums only."""
        return [o.moved for o in self.outcomes if o.bounded and o.moved is not None]

    @property
    def moved_under_norms(self) -> list[float]:
        """How far outputs moved where something is computed over all the channels that grew."""
        return [o.moved for o in self.outcomes if not o.bounded and o.moved is not None]

    @property
    def milliseconds(self) -> float:
        """Median time of a surgery that was done."""
        return 1e3 * median([o.seconds for o in self.outcomes if not o.refused] or [0.0])

    def summary(self) -> str:
        """Return the visit in one line."""
        counts = ", ".join(f"{kind} {self.done(kind)}" for kind in SURGERIES)
        return f"{self.species}: {counts}, wrong {len(self.wrong)}, {self.seconds:.0f} s"
