"""One attached model."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType, TracebackType
from typing import Self

from torch import nn

from esper_es.clock import capture_now, count_step, count_steps, finish_epoch
from esper_es.decisions import apply_decision
from esper_es.domain.architecture import Architecture
from esper_es.domain.decisions import AdaptationDecision
from esper_es.domain.envelope import Cause
from esper_es.domain.errors import Refused, UsageError
from esper_es.domain.state import ModelState
from esper_es.fingerprints import fingerprint, state_fingerprint
from esper_es.operations import Request, Stopwatch, check_legal_moment, refuse
from esper_es.projections.metrics import SurgeryMetrics
from esper_es.restoring import roll_back
from esper_es.result import SurgeryResult
from esper_es.seeds import Seeds
from esper_es.session import Session
from esper_es.surgeon import ModelSurgeon


class Run:
    """A model under the engine's care; ``Engine.attach`` makes one.

    Attributes:
        surgeon: the four surgeries.
        seeds: the seeds and their lives.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.surgeon = ModelSurgeon(session)
        self.seeds = Seeds(session)
        self._steps = count_steps(session)

    @property
    def name(self) -> str:
        """Name of the model in the log."""
        return self.session.state.name

    @property
    def version(self) -> int:
        """Head of the model's log: the number of its last fact."""
        return self.session.state.version

    @property
    def model(self) -> nn.Module:
        """The user's own module object."""
        return self.session.live.module

    @property
    def state(self) -> ModelState:
        """The aggregate's state."""
        return self.session.state

    @property
    def architecture(self) -> Architecture:
        """The architecture value of the aggregate."""
        return self.session.state.architecture

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the live module: architecture and bytes; ``esper_es.fingerprint`` of a replay is equal."""
        return fingerprint(self.session.live.module)

    @property
    def state_fingerprint(self) -> str:
        """Fingerprint of the whole run: module, optimizer, scheduler, scaler, RNG."""
        return state_fingerprint(self.session.live)

    @property
    def epoch(self) -> int:
        """Epochs that the log has seen end."""
        return self.session.state.epoch

    @property
    def metrics(self) -> SurgeryMetrics:
        """Counts and outcomes of the surgeries, folded from the log."""
        return SurgeryMetrics.of(self.session.log.history(self.session.state.id))

    def step_end(self) -> None:
        """Say that an optimizer step and ``zero_grad`` are over.

        Steps are counted by a hook on the optimizer; only a run without one counts them here.
        """
        if self._steps is None:
            count_step(self.session)

    def epoch_end(self, metrics: Mapping[str, float] | None = None) -> None:
        """Say that an epoch is over: seeds move on, surgeries on trial are judged, the capture policy acts.

        Args:
            metrics: finite numbers, e.g. ``{"val_acc": 0.93}``.

        Raises:
            UsageError: for a metric that is not a finite number, or when a watched one is missing; nothing is
                recorded.
            ConflictError, LedgerError, VaultError: if it can't be recorded; the run is as before.
        """
        if not isinstance(metrics, (Mapping, NoneType)):
            raise UsageError(f"epoch_end takes metrics by name, e.g. {{'val_acc': 0.93}}; got {metrics!r}")
        finish_epoch(self.session, dict(metrics or {}))

    def capture(self, *, reason: str = "asked", cause: Cause | None = None) -> int:
        """Store the whole state of the run; return the version to roll back to.

        Raises:
            VaultError, LedgerError, ConflictError: if it can't be stored.
        """
        return capture_now(self.session, reason, cause or Cause())

    def rollback(self, to_version: int, *, reason: str = "", cause: Cause | None = None) -> SurgeryResult:
        """Go back to a version: structure, tensors, optimizer, scheduler, scaler and RNG, bit for bit.

        Gradients are dropped. The log only grows; a rollback can be rolled back.

        Args:
            to_version: a version with a capture; others are refused, naming the nearest that have one.
            reason: in words.
            cause: who and why.

        Raises:
            MissingTensorError, IntegrityFailure, ReplayError, VaultError, LedgerError: if it can't be done; the run
                is as before.
        """
        cause = cause or Cause(reasoning=reason)
        request = Request(
            operation="rollback",
            target=str(to_version),
            arguments={"to_version": to_version, "reason": reason},
            cause=cause,
        )
        watch = Stopwatch()
        from_version = self.version
        try:
            check_legal_moment()
            roll_back(self.session, to_version, cause, trigger="asked", reason=reason)
        except Refused as refusal:
            return refuse(self.session, request, refusal, watch)
        return SurgeryResult(
            success=True,
            operation="rollback",
            version=self.version,
            details={"to_version": to_version, "from_version": from_version},
            undo_version=self.version - 1,
            timings_ms={"total": watch.total()},
        )

    def apply(self, decision: AdaptationDecision) -> SurgeryResult:
        """Carry out a decision; it, what it led to, and what came of it are facts with its id.

        Raises:
            UsageError: if it is none, or a parameter can never be right.
        """
        if not isinstance(decision, AdaptationDecision):
            raise UsageError(f"apply takes an AdaptationDecision, got {decision!r}")
        return apply_decision(self.session, self.surgeon, decision)

    async def apply_architecture_modification(self, decision: AdaptationDecision) -> SurgeryResult:
        """Carry out a decision from asynchronous code. It runs at once, in the caller's thread: a model can't be
        changed while the event loop trains it."""
        return self.apply(decision)

    def close(self) -> None:
        """Stop counting steps. The log and the model stay as they are."""
        if self._steps is not None:
            self._steps.remove()
            self._steps = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Run {self.name!r} at version {self.version}, epoch {self.epoch}>"
