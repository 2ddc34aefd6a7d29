"""Named points at which a crash or an error can be provoked, so that tests prove what survives.

`ESPER_ES_FAILPOINT=vault.renamed` kills the process with SIGKILL when it reaches that point;
`ESPER_ES_FAILPOINT=vault.renamed@3` at the third time. In one's own process, `raising` throws instead.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from attrs import define

VARIABLE = "ESPER_ES_FAILPOINT"

_mutex = threading.Lock()
_reached: Counter[str] = Counter()
_armed: list[_Armed] = []


@define
class _Armed:
    """An error waiting for its point."""

    name: str
    exception: BaseException
    hits_left: int


def reach(name: str) -> None:
    """Mark that execution arrived at `name`. Does nothing unless this point was armed."""
    target = os.environ.get(VARIABLE)
    if target:
        _kill_when_due(name, target)
    if _armed:
        _raise_when_due(name)


@contextmanager
def raising(name: str, exception: BaseException, *, hit: int = 1) -> Iterator[None]:
    """While open, raise `exception` from the `hit`-th time on that any thread reaches `name`."""
    armed = _Armed(name, exception, hit)
    with _mutex:
        _armed.append(armed)
    try:
        yield
    finally:
        with _mutex:
            _armed[:] = [other for other in _armed if other is not armed]


def _kill_when_due(name: str, target: str) -> None:
    wanted, _, hit = target.partition("@")
    if wanted != name:
        return
    with _mutex:
        _reached[name] += 1
        due = _reached[name] >= int(hit or 1)
    if due:
        os.kill(os.getpid(), signal.SIGKILL)


def _raise_when_due(name: str) -> None:
    with _mutex:
        due = None
        for armed in _armed:
            if armed.name == name:
                armed.hits_left -= 1
                if armed.hits_left <= 0:
                    due = armed
                    break
    if due is not None:
        raise due.exception
