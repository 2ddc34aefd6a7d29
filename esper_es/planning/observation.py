"""What one run of a copy of the model shows: which modules ran, in which order, on which shapes."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import torch
from attrs import field, frozen
from torch import nn

from esper_es.domain.architecture import relative_path
from esper_es.domain.errors import Refused
from esper_es.example_inputs import ExampleInputs
from esper_es.planning.reads import watched_reads
from esper_es.planning.taken import Given, Taken, given_to, taken_from
from esper_es.projections.live.fused_paths import step_aside
from esper_es.projections.live.hosting import STANDING
from esper_es.projections.live.journal import Journal
from esper_es.projections.live.rng import preserved_rng
from esper_es.projections.live.structures import Location, entry_at, leaves, stream_in, tensors_in
from esper_es.tracing.isolation import remembering_nothing
from esper_es.tracing.structure import result_tensors

ADD_EXAMPLES = "give one that reaches it, by attach(..., example_inputs=[a, b]) or run.add_examples(b)"
"""What to do about a branch that no example reached."""


@frozen(eq=False)
class Call:
    """One execution of a module.

    Attributes:
        path: the module.
        module: the module itself.
        start: position of its beginning among all beginnings and ends of the run.
        end: position of its end.
        inputs: shapes of the tensors it was given.
        output: shape of its output's stream; see ``structures``.
        dtype: of that; new layers behind it take it.
        example: position of the example call that the model was given.
    """

    path: str
    module: nn.Module
    start: int
    end: int
    inputs: tuple[tuple[int, ...], ...]
    output: tuple[int, ...] | None
    dtype: torch.dtype
    example: int = 0


@frozen(eq=False)
class Observation:
    """Runs of the model on its example inputs, in eval mode and without gradients.

    Attributes:
        calls: executions, in the order of their beginnings.
        outputs: the model's output tensors.
        taken: calls of the modules asked for, by path.
        side_readers: by path of such a module, where else than by its stream its results reach another module:
            what is handed on, and the module that takes it.
        activation_bytes: of the outputs of modules without children, in the call that needs most.
        forwards: by path of a module whose forward was called, and not the module, which code did so.
    """

    calls: tuple[Call, ...]
    outputs: tuple[torch.Tensor, ...]
    taken: Mapping[str, tuple[Taken, ...]] = field(factory=dict)
    side_readers: Mapping[str, tuple[Location, str]] = field(factory=dict)
    activation_bytes: int = 0
    forwards: Mapping[str, str] = field(factory=dict)

    def calls_of(self, path: str) -> tuple[Call, ...]:
        """Return the calls of a module on the first example that reaches it."""
        return next(iter(self._calls_by_example(path).values()), ())

    def calls_together(self, *paths: str) -> tuple[tuple[Call, ...], ...]:
        """Return the calls of several modules on the first example that reaches all; none where there is no such."""
        return next(self.each_together(*paths), tuple(() for _ in paths))

    def each_together(self, *paths: str) -> Iterator[tuple[tuple[Call, ...], ...]]:
        """Yield the calls of several modules on every example that reaches all."""
        found = [self._calls_by_example(path) for path in paths]
        for example in found[0]:
            if all(example in calls for calls in found):
                yield tuple(calls[example] for calls in found)

    def pairs_of(self, source: str, target: str) -> tuple[tuple[Call, Call], ...]:
        """Return the first call of either module on every example that reaches both."""
        return tuple((one[0], other[0]) for one, other in self.each_together(source, target))

    def examples_of(self, path: str) -> frozenset[int]:
        """Return which examples reach a module."""
        return frozenset(self._calls_by_example(path))

    def _calls_by_example(self, path: str) -> dict[int, tuple[Call, ...]]:
        found: dict[int, tuple[Call, ...]] = {}
        for call in self.calls:
            if call.path == path:
                found[call.example] = (*found.get(call.example, ()), call)
        return found

    def executed(self, path: str) -> bool:
        return any(call.path == path for call in self.calls)

    def streams_of(self, path: str) -> tuple[torch.Tensor, ...]:
        """Return the streams of the kept calls of a module."""
        return tuple(call.output for call in self.taken.get(path, ()) if call.output is not None)

    def runs_inside(self, path: str, outer: str) -> bool:
        """Say whether a module ran, and every time within a call of another."""
        hosts = [call for call in self.calls if call.path == outer]
        calls = [call for call in self.calls if call.path == path]
        return bool(calls) and all(any(h.start < c.start and c.end < h.end for h in hosts) for c in calls)

    def require_executed(self, path: str, what: str = "layer") -> tuple[Call, ...]:
        """Return the calls of a module.

        Raises:
            Refused: if the example inputs never ran it.
        """
        calls = self.calls_of(path)
        inside = not calls and any(relative_path(call.path, path) for call in self.calls)
        if not calls and path in self.forwards:
            raise Refused(
                f"{what} {path!r} is never called itself: the code of {self.forwards[path]} calls its forward, of "
                "which no hook hears, so that nobody sees what it takes and returns. Call the module there, as in "
                f"layer(x) instead of layer.forward(x){', or name a layer inside it' if inside else ''}",
                "not_called",
            )
        if inside:
            raise Refused(
                f"{what} {path!r} is never called itself, only layers inside it are: it is a mere list of layers, or "
                "the model calls a method of it that is not its forward, so that nobody sees what it takes and "
                "returns; name a layer inside it",
                "not_called",
            )
        if not calls:
            raise Refused(
                f"{what} {path!r} is never executed on the example inputs; {ADD_EXAMPLES}",
                "not_executed",
            )
        return calls


class _Begun(NamedTuple):
    """A call that has begun: of which module, when, what is kept of it, and the shapes of what it was given."""

    path: str
    start: int
    given: Given | None
    inputs: tuple[tuple[int, ...], ...]


class _Recorder:
    def __init__(self, names: Mapping[int, str], take: frozenset[str]) -> None:
        self.names = names
        self.take = take
        self.clock = 0
        self.example = 0
        self.open: list[_Begun] = []
        self.calls: list[Call] = []
        self.taken: dict[str, list[Taken]] = {}
        self.side_readers: dict[str, tuple[Location, str]] = {}
        self.activation_bytes: Counter[int] = Counter()
        self.forwards: dict[str, str] = {}

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        path = self.names[id(module)]
        self._note_side_reader(path, args, kwargs)
        given = given_to(module, args, kwargs) if path in self.take else None
        self.open.append(
            _Begun(path, self.clock, given, tuple(tuple(t.shape) for t in tensors_in((args, kwargs))))
        )
        self.clock += 1

    def _note_side_reader(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        handed_on = {
            id(value): (taken_path, location)
            for taken_path, calls in self.taken.items()
            for taken in calls
            for location, value in taken.left_out.items()
        }
        if not handed_on:
            return
        for _, leaf in leaves((args, kwargs)):
            source, location = handed_on.get(id(leaf), (path, ()))
            if relative_path(path, source) is None:
                self.side_readers.setdefault(source, (location, path))

    def finish(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        path, start, given, inputs = self.open.pop()
        location = stream_in(output)
        stream = None if location is None else entry_at(output, location)
        self.calls.append(
            Call(
                path=path,
                module=module,
                start=start,
                end=self.clock,
                inputs=inputs,
                output=None if stream is None else tuple(stream.shape),
                dtype=torch.get_default_dtype() if stream is None else stream.dtype,
                example=self.example,
            )
        )
        self.clock += 1
        if given is not None:
            self.taken.setdefault(path, []).append(taken_from(given, output))
        if not module._modules:
            self.activation_bytes[self.example] += sum(tensor.nbytes for tensor in tensors_in(output))

    def noting(self, path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Return a forward that notes who calls it, where nobody called its module."""

        @wraps(forward)
        def noted(*args: Any, **kwargs: Any) -> Any:
            within = self.open[-1].path if self.open else ""
            if path != within and path not in self.forwards:
                code = sys._getframe(1)
                at = f"{Path(code.f_code.co_filename).name}, line {code.f_lineno}"
                self.forwards[path] = f"{repr(within) if within else 'the model'} ({at})"
            return forward(*args, **kwargs)

        return noted


def observe(module: nn.Module, examples: ExampleInputs, take: Iterable[str] = ()) -> Observation:
    """Run a module, in eval mode and without gradients, and watch it.

    Training flags and random number generators are as before afterwards. Whatever the run raises goes
    through.

    Args:
        module: a copy of the live model.
        examples: what to run it on.
        take: paths of modules whose calls are kept.
    """
    names = {id(part): path for path, part in module.named_modules()}
    recorder = _Recorder(names, frozenset(take))
    handles = []
    for part in module.modules():
        handles.append(part.register_forward_pre_hook(recorder.begin, with_kwargs=True, prepend=True))
        handles.append(part.register_forward_hook(recorder.finish, with_kwargs=True))
    try:
        with _unpacked(), _noting_forwards(recorder, module):
            outputs = in_eval(module, lambda: _run(module, examples, recorder))
    finally:
        for handle in handles:
            handle.remove()
    return Observation(
        calls=tuple(sorted(recorder.calls, key=lambda call: call.start)),
        outputs=tuple(tensor for output in outputs for tensor in result_tensors(output)),
        taken={path: tuple(calls) for path, calls in recorder.taken.items()},
        side_readers=recorder.side_readers,
        activation_bytes=max(recorder.activation_bytes.values(), default=0),
        forwards=recorder.forwards,
    )


@contextmanager
def _noting_forwards(recorder: _Recorder, root: nn.Module) -> Iterator[None]:
    """Note calls of ``module.forward``, of which no hook hears."""
    own = [
        (path, vars(module), module.forward)
        for path, module in root.named_modules()
        if not isinstance(module, torch.jit.ScriptModule)
    ]
    before = [attributes.get("forward") for _, attributes, _ in own]
    try:
        for path, attributes, forward in own:
            attributes["forward"] = recorder.noting(path, forward)
        yield
    finally:
        for (_, attributes, _), forward in zip(own, before, strict=True):
            if forward is None:
                del attributes["forward"]
            else:
                attributes["forward"] = forward


@contextmanager
def _unpacked() -> Iterator[None]:
    """Keep torch's encoders from packing padded sequences into nested tensors, which have no shapes to look at."""
    before = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def reads_of(module: nn.Module, examples: ExampleInputs, path: str) -> frozenset[str]:
    """Return what the code around a module will read from what takes its place; see ``reads``.

    That is what it reads from the module where torch's fused paths step aside, as they do before a stand-in, and
    where they are switched off.

    Args:
        module: a copy of the live model.
        examples: what to run it on.
        path: of the module inside it.
    """
    journal = Journal()
    step_aside(journal, module, path, STANDING)
    try:
        names = in_eval(module, lambda: _names_read(module, examples, path))
        with _unpacked():
            names |= in_eval(module, lambda: _names_read(module, examples, path))
    finally:
        journal.undo()
    return frozenset(names)


def _names_read(module: nn.Module, examples: ExampleInputs, path: str) -> set[str]:
    with watched_reads(module.get_submodule(path)) as reads:
        _run(module, examples)
    return reads.names


def _run(module: nn.Module, examples: ExampleInputs, recorder: _Recorder | None = None) -> list[Any]:
    outputs = []
    with torch.no_grad():
        for number, (args, kwargs) in enumerate(examples.fresh()):
            if recorder is not None:
                recorder.example = number
            outputs.append(module(*args, **kwargs))
    return outputs


def in_eval(module: nn.Module, action: Callable[[], Any]) -> Any:
    """Call something with a module in eval mode; flags, generators and remembered tensors are as before afterwards."""
    training = [part for part in module.modules() if part.training]
    with preserved_rng(), remembering_nothing(module.modules()):
        try:
            module.eval()
            return action()
        finally:
            for part in training:
                part.training = True
