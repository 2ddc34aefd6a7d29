"""The aggregate: one per model. It decides what may happen and gives facts their place in the log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

from attrs import frozen

from esper_es.domain.envelope import Cause, Envelope
from esper_es.domain.errors import Refused
from esper_es.domain.facts import EpochEnded, Fact
from esper_es.domain.fold import fold
from esper_es.domain.state import ModelState, Restorable


@frozen(kw_only=True)
class Moment:
    """When something is recorded: UTC time in ISO 8601, and the log's own clock."""

    at: str
    epoch: int
    step: int


def enveloped(
    model_id: UUID, after_version: int, facts: Sequence[Fact], cause: Cause, moment: Moment
) -> tuple[Envelope, ...]:
    """Give facts their versions, moment and cause. An ``EpochEnded`` moves the clock of what follows it."""
    envelopes: list[Envelope] = []
    epoch = moment.epoch
    for offset, fact in enumerate(facts, start=1):
        if isinstance(fact, EpochEnded):
            epoch = fact.epoch
        envelopes.append(
            Envelope(
                originator_id=model_id,
                originator_version=after_version + offset,
                at=moment.at,
                epoch=epoch,
                step=moment.step,
                cause=cause,
                fact=fact,
            )
        )
    return tuple(envelopes)


def recorded(
    state: ModelState, facts: Sequence[Fact], cause: Cause, moment: Moment
) -> tuple[ModelState, tuple[Envelope, ...]]:
    """Return the state after ``facts`` and the envelopes to commit. Nothing is stored here."""
    envelopes = enveloped(state.id, state.version, facts, cause, moment)
    after = folded(state, envelopes)
    return after, envelopes


def folded(state: ModelState | None, envelopes: Iterable[Envelope]) -> ModelState:
    """Fold at least one envelope, or start from a state."""
    after = fold(state, envelopes)
    if after is None:
        raise ValueError("there are no facts to fold")
    return after


def restorable(state: ModelState, version: int) -> Restorable:
    """Return how to go back to ``version`` exactly.

    Raises:
        Refused: if there is no such version or no capture of it; it names the nearest that have one.
    """
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= state.version:
        raise Refused(f"there is no version {version!r}; the log has 1 to {state.version}", "unknown_version")
    if version in state.restorable:
        return state.restorable[version]
    earlier = max((v for v in state.restorable if v < version), default=None)
    later = min((v for v in state.restorable if v > version), default=None)
    near = " and ".join(str(v) for v in (earlier, later) if v is not None) or "none"
    raise Refused(f"version {version} has no capture; nearest versions that have one: {near}", "no_capture")
