"""The legal moment for a change: between two training steps, when nothing that a change would spoil is under way."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

import torch
from attrs import define, field
from torch import nn

from esper_es.domain.errors import Refused
from esper_es.projections.live.live import Live
from esper_es.projections.live.names import named_parameters_by_id

_LATER = "or let run.at_boundary(...) do it after the step"


def check_not_running(module: nn.Module) -> None:
    """Check that no forward or backward pass and no autocast region is under way, in any thread.

    Raises:
        Refused: otherwise.
    """
    if torch._C._current_graph_task_id() != -1 or any(_is_backward(frame) for frame in _frames()):
        raise Refused(
            f"a backward pass is under way; change the model after optimizer.step(), {_LATER}", "moment"
        )
    running = _running(module)
    if running is not None:
        raise Refused(
            f"a forward pass of the model is under way (in {running or 'its root'!r}); change it between two "
            f"steps, {_LATER}",
            "moment",
        )
    if torch.is_autocast_enabled("cpu") or (torch.cuda.is_available() and torch.is_autocast_enabled("cuda")):
        raise Refused(
            f"an autocast region is open; change the model outside of it, {_LATER}",
            "moment",
        )


def _frames() -> Iterator[FrameType]:
    """Yield what is being executed now, in every thread."""
    for frame in sys._current_frames().values():
        current: FrameType | None = frame
        while current is not None:
            yield current
            current = current.f_back


def _is_backward(frame: FrameType) -> bool:
    return frame.f_code is torch.autograd.graph._engine_run_backward.__code__


_CALLS = (nn.Module._call_impl.__code__, nn.Module._wrapped_call_impl.__code__)


def _running(module: nn.Module) -> str | None:
    """Return the path of the innermost module whose call is under way; None when there is none."""
    paths: dict[int, str] = {id(part): path for path, part in module.named_modules()}
    for frame in _frames():
        if frame.f_code in _CALLS:
            called: nn.Module = frame.f_locals["self"]
            for candidate in (called, called._modules.get("_orig_mod")):
                if (path := paths.get(id(candidate))) is not None:
                    return path
    return None


@define(eq=False)
class Boundary:
    """The end of the last training step, and what is left of it.

    It tells gradients that the step has used up from gradients gathered since, and graphs made before it from
    graphs made since, through which a backward pass may still come.

    Attributes:
        known: whether ends of steps are declared, by an optimizer's hook or by ``run.step_end()``.
    """

    known: bool = False
    _spent: list[tuple[weakref.ref[torch.Tensor], int]] = field(factory=list)
    _sequence: int = -1
    _thread: int = 0

    def declare(self, live: Live) -> None:
        """Say that a step has just ended: its gradients are used up, its graphs have had their backward pass."""
        self.known = True
        self._spent = [
            (weakref.ref(gradient), gradient._version)
            for parameter in _trained(live)
            if (gradient := parameter.grad) is not None
        ]
        self._thread = threading.get_ident()
        self._sequence = _newest_node()

    def renew(self, live: Live) -> None:
        """Say that the model was changed at a legal moment, which leaves nothing under way either."""
        if self.known:
            self.declare(live)

    def check(self, live: Live) -> None:
        """Check that no gradients have been gathered since, and no graph made since waits for its backward pass.

        Graphs count while the model is in training mode only: outputs of a model in evaluation mode are
        held to be looked at.

        Raises:
            Refused: otherwise.
        """
        if not self.known:
            return
        if (parameter := self._gathering(live)) is not None:
            name = named_parameters_by_id(live.module).get(id(parameter))
            raise Refused(
                f"gradients have been gathered since the last optimizer step (in {name!r}); change the model after "
                f"optimizer.step() or zero_grad(), {_LATER}",
                "moment",
            )
        if live.module.training and self._awaits_backward(live.module):
            raise Refused(
                "the model has run forward with gradients since the last optimizer step, and what came out is "
                "alive, so that a backward pass may follow; change the model after the step, delete what came "
                f"out, run forward under torch.no_grad(), {_LATER}",
                "moment",
            )

    def _gathering(self, live: Live) -> torch.Tensor | None:
        """Return a parameter with a gradient that no step has used up; zeros are none."""
        spent = {id(gradient): version for ref, version in self._spent if (gradient := ref()) is not None}
        for parameter in _trained(live):
            gradient = parameter.grad
            if gradient is None or spent.get(id(gradient)) == gradient._version:
                continue
            if gradient.is_sparse or bool(gradient.any()):
                return parameter
        return None

    def _awaits_backward(self, module: nn.Module) -> bool:
        """Say whether a graph made since the boundary would write gradients into the module."""
        same_thread = self._thread == threading.get_ident()
        since = self._sequence if same_thread else -1
        newest = _newest_node()
        if not (same_thread and newest == since + 1):
            with torch.inference_mode(mode=False):
                leaves = set(_living_accumulators(p for p in module.parameters() if p.requires_grad))
            if leaves and any(_reaches(tensor.grad_fn, leaves, since) for tensor in _tensors_with_graphs()):
                return True
        if same_thread:
            self._sequence = newest
        return False


def _trained(live: Live) -> Iterator[torch.Tensor]:
    """Yield the parameters that the optimizer steps, or all where none is attached."""
    if live.optimizer is None:
        yield from live.module.parameters()
    else:
        for group in live.optimizer.param_groups:
            yield from group["params"]


def _newest_node() -> int:
    """Make a graph node and return its number: one more than that of this thread's last one."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        node: Any = torch.empty(0, device="cpu", requires_grad=True).view(0).grad_fn
    number: int = node._sequence_nr()
    return number


class _Token:
    """Lives as long as the graph node that it is put on."""


def _living_accumulators(parameters: Iterable[torch.Tensor]) -> Iterator[Any]:
    """Yield the gradient accumulators that graphs hold on to; others are made for the asking, and die at once."""
    for parameter in parameters:
        token = _Token()
        witness = weakref.ref(token)
        node: Any = torch.autograd.graph.get_gradient_edge(parameter).node
        node.metadata[_Token] = token
        del node, token
        if witness() is not None:
            node = torch.autograd.graph.get_gradient_edge(parameter).node
            del node.metadata[_Token]
            yield node


def _tensors_with_graphs() -> list[torch.Tensor]:
    """Return every tensor in memory that a backward pass could start from.

    No generator: suspended, it would be one of the objects that it goes through, and keep all of them alive.
    """
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    return [tensor for tensor in tensors if tensor.grad_fn is not None]


def _reaches(start: Any, leaves: set[Any], since: int) -> bool:
    """Say whether a backward pass from a node made after ``since`` comes to one of ``leaves``."""
    stack, seen = [start], set()
    while stack:
        node = stack.pop()
        if node in leaves:
            return True
        if node is None or node in seen or node._sequence_nr() <= since:
            continue
        seen.add(node)
        stack.extend(following for following, _ in node.next_functions)
    return False
