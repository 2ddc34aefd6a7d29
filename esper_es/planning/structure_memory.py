"""What was found out about the last structures of a model: where one surgery ends, the next one begins."""

from __future__ import annotations

from attrs import define, evolve, field, frozen

from esper_es.tracing import Trace

KEPT = 2
"""Structures that are remembered: the one before a surgery, and the one after it."""


@frozen(eq=False)
class Findings:
    """What running a structure showed, whatever its weights were.

    Attributes:
        trace: which channel feeds which.
        gradients: names of the parameters that a gradient reaches.
    """

    trace: Trace | None = None
    gradients: frozenset[str] | None = None


NOTHING = Findings()


@define(eq=False)
class StructureMemory:
    """Findings by the fingerprint of a structure.

    A model's forward may depend on more than its structure (a flag, the values of its weights), so what is
    remembered may be out of date. It may be built on, as every surgery is tried and proven afterwards on what the
    model does then; a refusal that rests on it must be checked without it, see ``forget``.
    """

    _findings: dict[str, Findings] = field(factory=dict)

    def of(self, fingerprint: str) -> Findings:
        """Return what is known of a structure."""
        return self._findings.get(fingerprint, NOTHING)

    def learn(
        self, fingerprint: str, *, trace: Trace | None = None, gradients: frozenset[str] | None = None
    ) -> None:
        """Add to what is known of a structure, and let go of the one that was learnt of the longest ago."""
        known = self._findings.pop(fingerprint, NOTHING)
        self._findings[fingerprint] = evolve(
            known, trace=trace or known.trace, gradients=known.gradients if gradients is None else gradients
        )
        while len(self._findings) > KEPT:
            del self._findings[next(iter(self._findings))]

    def forget(self) -> None:
        """Forget everything."""
        self._findings.clear()
