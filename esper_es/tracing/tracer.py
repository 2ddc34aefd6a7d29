"""Trace a model by running it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from traceback import walk_tb
from typing import Any, Protocol

import torch
from torch import nn

from esper_es.domain.errors import EsperError, UsageError
from esper_es.tracing import standard_rules  # noqa: F401  (fills the table of rules)
from esper_es.tracing.calls import CallRecorder
from esper_es.tracing.carry import Carry, Origin
from esper_es.tracing.carry_memory import CarryMemory
from esper_es.tracing.isolation import plain_kernels, uncollected, undisturbed
from esper_es.tracing.provenance import Trace
from esper_es.tracing.relations import Relations
from esper_es.tracing.slots import SeededTensors, seed, seed_shadows
from esper_es.tracing.structure import cloned, result_tensors, tensors_in
from esper_es.tracing.watching import FunctionWatch, OperatorWatch, settle

Example = tuple[tuple[Any, ...], dict[str, Any]]


class Watcher(Protocol):
    """Looks at the runs of a model that is traced."""

    def watching(self, model: nn.Module, memory: CarryMemory, slots: int) -> AbstractContextManager[None]:
        """Watch one run, inside the modes of the tracer; ``memory`` holds what tensors carry."""


def trace(model: nn.Module, examples: Sequence[Example], watcher: Watcher | None = None) -> Trace:
    """Run a model on each example and follow every channel through every operator that it executes.

    The model runs as it is, in evaluation mode and without gradients; its flags, what its forward keeps on its
    modules and all random generators are afterwards as they were. Only executed code is traced: give several
    examples to cover several branches. Dimensions of the examples should exceed 1, as size 1 cannot be told from
    broadcasting.

    Args:
        model: the model, best a copy: a forward that writes into its tensors does so here too.
        examples: arguments and keyword arguments for each run.
        watcher: collects what else is to be seen of the runs, such as ``Frames``, which costs about as much again.

    Raises:
        UsageError: no example, one that is not a pair of tuple and dict, one that the model fails on, or a
            lazy parameter without a shape.
        EsperError: a rule does not fit the operator it is registered for.
    """
    if not examples:
        raise UsageError("a trace needs at least one example: a pair of arguments and keyword arguments")
    with uncollected():
        return _traced(model, examples, watcher)


def _traced(model: nn.Module, examples: Sequence[Example], watcher: Watcher | None) -> Trace:
    seeds = seed(model)
    relations = Relations(seeds.index.size)
    memory = CarryMemory(seeds)
    calls = CallRecorder()
    with undisturbed(model, examples), plain_kernels(), calls.recording(model):
        for number, example in enumerate(examples):
            calls.example = number
            looking = nullcontext() if watcher is None else watcher.watching(model, memory, seeds.index.size)
            output = _run(model, number, example, memory, relations, calls, looking)
            for tensor in result_tensors(output):
                carry = memory.recall(tensor)
                settle(carry, relations)
                for shadow in carry.shadows:
                    relations.pin(shadow.ids, "model output", "")
    _pin_overlaps(seeds, relations)
    unexecuted = _pin_unexecuted(seeds, memory.touched, relations)
    return Trace(seeds.index, relations.settled(), calls.calls, _aliases(model), unexecuted)


def _run(
    model: nn.Module,
    number: int,
    example: Example,
    memory: CarryMemory,
    relations: Relations,
    calls: CallRecorder,
    looking: AbstractContextManager[None],
) -> Any:
    if not (isinstance(example, tuple) and len(example) == 2 and isinstance(example[1], dict)):
        raise UsageError(
            f"example {number} is no pair of an argument tuple and a keyword dict: {type(example)}"
        )
    args, kwargs = cloned(tuple(example[0])), cloned(example[1])
    for tensor in tensors_in((args, kwargs)):
        memory.remember(tensor, Carry((), Origin.INPUT))
    operators = OperatorWatch(memory, relations, calls)
    with FunctionWatch(operators, memory, relations, calls), operators, looking:
        try:
            return model(*args, **kwargs)
        except (EsperError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise UsageError(
                f"the model fails on example {number}, so it cannot be traced: {_where(model, error)}{error}"
            ) from error


def _where(model: nn.Module, error: Exception) -> str:
    """The innermost module of the model whose code failed that is none of torch's, and the line; nothing if unknown."""
    paths = {id(module): path for path, module in model.named_modules()}
    found = ""
    for frame, line in walk_tb(error.__traceback__):
        code = frame.f_code
        path = paths.get(id(frame.f_locals.get(code.co_varnames[0]))) if code.co_argcount else None
        if path is not None and not frame.f_globals.get("__name__", "").startswith("torch."):
            found = f"in {repr(path) if path else 'the model itself'} ({Path(code.co_filename).name}, line {line}): "
    return found


def _pin_overlaps(seeds: SeededTensors, relations: Relations) -> None:
    for pair in seeds.overlaps:
        for number, other in (pair, pair[::-1]):
            tensor, partner = seeds.index.tensors[number], seeds.index.tensors[other]
            if partner.table and not tensor.table:
                continue
            for shadow in seed_shadows(tensor):
                relations.pin(shadow.ids, f"shares its memory with {partner.name}", tensor.module)


def _pin_unexecuted(seeds: SeededTensors, touched: Iterable[int], relations: Relations) -> tuple[str, ...]:
    executed = set(touched)
    names = []
    for number, tensor in enumerate(seeds.index.tensors):
        if number not in executed:
            for shadow in seed_shadows(tensor):
                relations.pin(
                    shadow.ids, "was executed by no example (add one that reaches it)", tensor.module
                )
            if not tensor.statistic:
                names.append(tensor.name)
    return tuple(names)


def _aliases(model: nn.Module) -> dict[str, str]:
    """Every path of every module, with the first path of the same object."""
    first: dict[int, str] = {}
    return {
        path: first.setdefault(id(module), path)
        for path, module in model.named_modules(remove_duplicate=False)
    }
