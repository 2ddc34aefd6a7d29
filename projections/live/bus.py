"""What carries tapped outputs from taps to joins, through gradient checkpointing too.

A checkpointed segment runs twice: for its values, and again in the backward pass for its graph. A value that was
tapped in one of these runs and joined in another has no graph in common with it, so its gradient is collected where
it was joined and added where it was tapped. The tap's own gradient comes after the join's, for the path from the one
to the other goes through what lies between.
"""

from __future__ import annotations

from functools import partial
from threading import local
from typing import Any

import torch
from torch.fx import Proxy

from esper_es.domain.architecture import Connection
from esper_es.domain.errors import EsperError
from esper_es.projections.live.structures import tensors_in


class SkipOrderError(EsperError, RuntimeError):
    """A join ran where its tap had not."""


class _Collected:
    """The gradient that joins in other runs found for a tapped output."""

    def __init__(self) -> None:
        self.gradient: torch.Tensor | None = None

    def add(self, gradient: torch.Tensor) -> None:
        self.gradient = gradient if self.gradient is None else self.gradient + gradient

    def give(self, gradient: torch.Tensor) -> torch.Tensor:
        found, self.gradient = self.gradient, None
        return gradient if found is None else gradient + found


class _Tapped:
    """A value on the bus.

    Attributes:
        value: the output, or its copy.
        version: of the value, which grows when somebody writes in it.
        run: in which it was made; see ``_run``.
        collected: gradient found elsewhere.
    """

    def __init__(self, value: torch.Tensor, collected: _Collected | None) -> None:
        self.value = value
        self.version = value._version
        self.run = _run()
        self.collected = collected or _Collected()


def _run() -> tuple[bool, int]:
    """Tell runs of a checkpointed segment apart: whether they build a graph, and within which backward pass."""
    return torch.is_grad_enabled(), torch._C._current_graph_task_id()


def is_symbolic(value: object) -> bool:
    """Say whether a value stands for others: a program is being compiled or traced, which runs once."""
    return torch.compiler.is_compiling() or isinstance(value, Proxy)


class _Pass:
    """A forward pass of the root: its tapped outputs by connection.

    Attributes:
        values: by connection.
        tapped: more about them.
        outer: the pass within which it runs, where the root calls itself.
    """

    def __init__(self, outer: _Pass | None = None) -> None:
        self.values: dict[str, torch.Tensor] = {}
        self.tapped: dict[str, _Tapped] = {}
        self.outer = outer


class _Thread(local):
    """The forward pass that a thread is in, and what its calls of single parts tapped since the last one."""

    def __init__(self) -> None:
        self.current: _Pass | None = None
        self.outside = _Pass()


class Bus:
    """The tapped outputs of forward passes of the root module, by connection: of each thread its own.

    Attributes:
        muted: connections whose joins do nothing, for a while.

    Values stay when they are joined, because checkpointing runs joins twice, and until the pass ends; a backward pass
    finds them again. Compiled programs, which know no threads, use those of the last pass that began. Where none ever
    began, as under a forward that was put on the root object, all is one pass. Copies and pickles of a model begin with
    an empty bus.
    """

    def __init__(self) -> None:
        self._last = _Pass()
        self._here = _Thread()
        self._begun = False
        self._compiled = False
        self.muted: frozenset[str] = frozenset()

    def __reduce__(self) -> tuple[type[Bus], tuple[()]]:
        return Bus, ()

    def begin(self) -> None:
        """Begin a forward pass of the root."""
        self._begun = True
        if torch.compiler.is_compiling():
            self._last = _Pass()
            self._compiled = True
        else:
            self._last = self._here.current = _Pass(self._here.current)
            self._here.outside = _Pass()

    def clear(self) -> None:
        """Forget all outputs, and that any pass ever began."""
        self._last = _Pass()
        self._here = _Thread()
        self._begun = self._compiled = False

    @property
    def is_empty(self) -> bool:
        """Whether it holds no outputs."""
        return not self._last.values

    def end(self, output: Any) -> None:
        """End it; a backward pass from its output finds its values again, whatever ran in between."""
        if torch.compiler.is_compiling():
            self._compiled = False
            return
        ended = self._here.current
        if ended is None:
            return
        self._here.current, ended.outer = ended.outer, None
        if not torch.is_grad_enabled():
            self._last = _Pass()
            return
        again = partial(self._resume, ended)
        for tensor in tensors_in(output):
            if tensor.requires_grad:
                tensor.register_hook(again)  # type: ignore[no-untyped-call]

    def abandon(self) -> None:
        """End it after an error: nothing joins what it tapped.

        An error is also how checkpointing stops running the root again, once it has what the backward pass needs; that
        one goes on.
        """
        if self._here.current is not None:
            self._here.current = self._here.current.outer
        if _run()[1] == -1:
            self._last = _Pass()

    def _resume(self, ended: _Pass, gradient: torch.Tensor) -> None:
        self._last = ended

    def _current(self) -> _Pass:
        """The pass that runs: this thread's, that to which a backward pass belongs, or a compiled one; otherwise what
        parts of the model that were called by themselves tapped."""
        if torch.compiler.is_compiling() or _run()[1] != -1:
            return self._last
        if self._here.current is None and (self._compiled or not self._begun):
            return self._last
        return self._here.current or self._here.outside

    def put(self, connection: str, value: torch.Tensor) -> None:
        """Tap an output."""
        current = self._current()
        current.values[connection] = value
        if is_symbolic(value):
            return
        known = current.tapped.get(connection)
        recomputing = known is not None and _run()[1] != -1
        tapped = _Tapped(value, known.collected if known is not None and recomputing else None)
        current.tapped[connection] = tapped
        if value.requires_grad:
            value.register_hook(tapped.collected.give)  # type: ignore[no-untyped-call]

    def take(self, connection: Connection) -> torch.Tensor:
        """Return a tapped output, to be joined.

        Raises:
            SkipOrderError: if it was not tapped in this forward pass, nor by a part called by itself before.
            RuntimeError: if it was written over meanwhile.
        """
        current = self._current()
        if connection.id not in current.values:
            where = "in this forward pass"
            if not torch.compiler.is_compiling() and current is self._here.outside:
                where = "since the model ran as a whole; parts of it that are called by themselves need both, in order"
            raise SkipOrderError(
                f"skip connection {connection.id!r}: {connection.source!r} did not run before {connection.target!r} "
                f"{where}"
            )
        value = current.values[connection.id]
        if is_symbolic(value) or connection.id not in current.tapped:
            return value
        tapped = current.tapped[connection.id]
        if value._version != tapped.version:
            raise RuntimeError(
                f"skip connection {connection.id!r}: the output that it takes was written in place meanwhile; the "
                "example inputs did not show that, so add the skip anew with inputs that do"
            )
        if not torch.is_grad_enabled() or tapped.run == _run() or not value.is_floating_point():
            return value
        received = value.detach().requires_grad_()
        received.register_hook(tapped.collected.add)  # type: ignore[no-untyped-call]
        return received
