"""One attached model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import NoneType, TracebackType
from typing import ParamSpec, Self, TypeVar

from torch import nn

from esper_es.clock import capture_now, count_step, finish_epoch
from esper_es.decisions import apply_decision
from esper_es.deferring import Deferrals, Deferred
from esper_es.domain.architecture import Architecture
from esper_es.domain.decisions import AdaptationDecision
from esper_es.domain.envelope import Cause
from esper_es.domain.errors import Refused, UsageError
from esper_es.domain.state import ModelState
from esper_es.domain.whole_numbers import whole
from esper_es.example_inputs import normalized
from esper_es.exporting import exported
from esper_es.fingerprints import fingerprint, state_fingerprint
from esper_es.following import follow, unfollow
from esper_es.operations import Request, refuse
from esper_es.planning.observation import observe
from esper_es.projections.metrics import SurgeryMetrics
from esper_es.restoring import roll_back
from esper_es.result import SurgeryResult
from esper_es.scalars import Number, plain_numbers
from esper_es.seeds import Seeds
from esper_es.session import Session
from esper_es.shadow import on_a_copy
from esper_es.stopwatch import Stopwatch
from esper_es.surgeon import ModelSurgeon

P = ParamSpec("P")
T = TypeVar("T")


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
        self._deferrals = Deferrals(session)
        self._steps = None
        if session.live.optimizer is not None:
            session.boundary.declare(session.live)
            self._steps = session.live.optimizer.register_step_post_hook(self._optimizer_stepped)

    def _optimizer_stepped(self, *_: object) -> None:
        """Count the step. A scheduler or scaler has its own part of the step still to do, so that only
        ``step_end`` can say when that is over."""
        count_step(self.session)
        if self.session.live.scheduler is None and self.session.live.scaler is None:
            self._deferrals.settle()

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
        """Say that a training step is over: the optimizer's, the scheduler's and the scaler's.

        What ``at_boundary`` deferred is carried out. Steps are counted by a hook on the optimizer; only a run
        without one counts them here.
        """
        if self._steps is None:
            count_step(self.session)
        self._deferrals.settle()

    def at_boundary(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Call something at the end of this training step, e.g. a surgery asked for while backward runs.

        ``run.at_boundary(run.surgeon.modify_layer_width, layer_name="fc1", new_width=64)``. Calls are made in
        order, by ``step_end`` or ``epoch_end``; or right after ``optimizer.step()``, where neither a scheduler
        nor a scaler is attached. While gradients are being gathered they wait on. The log tells of them when
        they happen.

        Args:
            call: what to call: a surgery, a seed's operation, ``rollback``, ``apply``.
            *args: of it.
            **kwargs: of it.

        Returns:
            A handle: ``.done``, ``.result`` (what the call returned), ``.cancel()``.

        Raises:
            UsageError: if ``call`` can't be called.
        """
        return self._deferrals.put(call, *args, **kwargs)

    def epoch_end(self, metrics: Mapping[str, Number] | None = None) -> None:
        """Say that an epoch is over: seeds move on, surgeries on trial are judged, the capture policy acts.

        Args:
            metrics: finite numbers, e.g. ``{"val_acc": 0.93}``; scalars of NumPy and torch too.

        Raises:
            UsageError: for a metric that is not a finite number, or when a watched one is missing; nothing is
                recorded.
            ConflictError, LedgerError, VaultError: if it can't be recorded; the run is as before.
        """
        if not isinstance(metrics, (Mapping, NoneType)):
            raise UsageError(f"epoch_end takes metrics by name, e.g. {{'val_acc': 0.93}}; got {metrics!r}")
        finish_epoch(self.session, plain_numbers(metrics or {}, "metrics"))
        self._deferrals.settle()

    def capture(self, *, reason: str = "asked", cause: Cause | None = None) -> int:
        """Store the whole state of the run; return the version to roll back to.

        Raises:
            VaultError, LedgerError, ConflictError: if it can't be stored.
        """
        return capture_now(self.session, reason, cause or Cause())

    def rollback(self, to_version: int, *, reason: str = "", cause: Cause | None = None) -> SurgeryResult:
        """Go back to a version: structure, tensors, optimizer, scheduler, scaler and RNG, bit for bit.

        Gradients are dropped. The log only grows; a rollback can be rolled back. Random generators of CUDA devices
        that the capture or this process lacks are left out, and named in ``details["left_out"]`` and in the fact.

        Args:
            to_version: a version with a capture; others are refused, naming the nearest that have one.
            reason: in words.
            cause: who and why.

        Raises:
            MissingTensorError, IntegrityFailure, ReplayError, VaultError, LedgerError: if it can't be done; the run
                is as before.
        """
        to_version = whole(to_version)
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
            self.session.check_free()
            fact = roll_back(self.session, to_version, cause, trigger="asked", reason=reason)
        except Refused as refusal:
            return refuse(self.session, request, refusal, watch)
        return SurgeryResult(
            success=True,
            operation="rollback",
            version=self.version,
            details={
                "to_version": to_version,
                "from_version": from_version,
                "left_out": list(fact.left_out),
            },
            undo_version=fact.base_capture,
            timings_ms={"total": watch.total()},
        )

    def add_examples(self, *example_inputs: object) -> None:
        """Add example inputs that reach more of the model; for this run only, the log keeps those of ``attach``.

        Args:
            *example_inputs: each a tensor, a tuple of arguments or a dict of keyword arguments.

        Raises:
            UsageError: if the model does not run on one of them; nothing is added.
        """
        examples = normalized(list(example_inputs), self.model)
        try:
            on_a_copy(self.model, lambda shadow: observe(shadow, examples).outputs)
        except Exception as error:
            raise UsageError(f"the model does not run on its example inputs: {error}") from error
        self.session.examples += examples
        self.session.memory.forget()

    def export(self, *, standalone: bool = False) -> nn.Module:
        """Return a plain copy of the model: its modules have their own classes, and it computes the same, bit for
        bit, which is proven on the example inputs.

        It can be pickled, copied, saved and compiled. Names in its state dict are the model's, but for seeds that
        do not take part yet, which are left out. Inserted residual layers, bypasses and blending seeds become
        ``torch.fx.GraphModule``, inserted layers and skips inside one ``nn.Sequential`` plain children, so that
        it needs no esper_es. Skips under a forward of your own, and layers added to or removed from blocks that
        return structures, become forward hooks whose classes are ours: to load such a copy, esper_es must be
        installed. Hooks of your own are left out.

        Args:
            standalone: refuse rather than return a copy that needs esper_es.

        Raises:
            UsageError: if it can't stand alone and must.
        """
        return exported(self.model, self.session.examples, standalone=standalone)

    def follow(self, average: nn.Module) -> None:
        """Change an average of the model (EMA, SWA) along with it from now on.

        Every change of structure is made in both or in neither. Entries that stay keep what the average has
        gathered; new ones begin with the bytes that the model's begin with. A rollback goes back to before
        things that were averaged: the average starts anew from the restored model (and an ``AveragedModel``
        counts its updates from 0 again).

        Args:
            average: a ``torch.optim.swa_utils.AveragedModel``, a deep copy of the model, or anything that holds
                one as its child ``module``.

        Raises:
            UsageError: if its structure differs from the model's, or it shares tensors with it.
        """
        follow(self.session, average)

    def unfollow(self, average: nn.Module) -> None:
        """Leave an average as it is from now on.

        Raises:
            UsageError: if it is not followed.
        """
        unfollow(self.session, average)

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
        """Stop counting steps; what is still deferred is cancelled. The log and the model stay as they are."""
        self._deferrals.cancel()
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
