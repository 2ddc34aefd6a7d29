"""Changes asked for in the middle of a training step, carried out at its end."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar, cast

from attrs import define, field

from esper_es.domain.errors import EsperError, Refused, UsageError
from esper_es.session import Session

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


@define(eq=False)
class Deferred(Generic[T]):
    """A call that waits for the end of a training step.

    Attributes:
        what: is called, in words.
        done: whether it was carried out; it may have failed.
        cancelled: whether it was taken back before.
    """

    what: str
    done: bool = False
    cancelled: bool = False
    _call: Callable[[], T] | None = field(default=None, repr=False)
    _outcome: T | None = field(default=None, repr=False)
    _error: Exception | None = field(default=None, repr=False)

    @property
    def result(self) -> T:
        """What the call returned, e.g. a ``SurgeryResult``. Whatever it raised is raised here.

        Raises:
            UsageError: if it has not been carried out.
        """
        if not self.done:
            state = "was cancelled" if self.cancelled else "waits for the end of a training step"
            raise UsageError(f"{self.what} {state}; look at .done first")
        if self._error is not None:
            raise self._error
        return cast(T, self._outcome)

    def cancel(self) -> bool:
        """Take the call back; return whether there was still time."""
        if not self.done:
            self.cancelled, self._call = True, None
        return self.cancelled

    def carry_out(self) -> None:
        """Make the call now; what it raises is kept for ``result``."""
        call, self._call = self._call, None
        if call is None:
            return
        try:
            self._outcome = call()
        except EsperError as error:
            self._error = error
            logger.warning("%s, which was deferred, failed: %s", self.what, error)
        except Exception as error:
            self._error = error
            logger.exception("%s, which was deferred, failed", self.what)
        self.done = True


class Deferrals:
    """The calls that wait for the end of a training step of one run, in order."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._waiting: deque[Deferred[Any]] = deque()

    def put(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Let a call wait.

        Raises:
            UsageError: if it is none.
        """
        if not callable(call):
            raise UsageError(
                f"at_boundary takes what to call and its arguments, e.g. at_boundary(run.rollback, 7); got {call!r}"
            )
        what = getattr(call, "__name__", repr(call))
        deferred: Deferred[T] = Deferred(what, call=lambda: call(*args, **kwargs))
        self._waiting.append(deferred)
        return deferred

    def settle(self) -> None:
        """Carry out what waits, unless this is no moment for a change; then it waits on."""
        while self._waiting:
            try:
                self._session.check_moment()
            except Refused as refusal:
                logger.debug("deferred changes wait on: %s", refusal.reason)
                return
            self._waiting.popleft().carry_out()

    def cancel(self) -> None:
        """Take back all that waits."""
        for deferred in self._waiting:
            if deferred.cancel():
                logger.warning(
                    "%s was deferred, and no training step ended before the run did", deferred.what
                )
        self._waiting.clear()
