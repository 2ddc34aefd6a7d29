"""One call of a module, kept: what it was given, what it returned, and what of that a stand-in could return."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from attrs import field, frozen
from torch import nn

from esper_es.domain.canonical import Json
from esper_es.projections.live.hosting import original_class
from esper_es.projections.live.results import STREAM
from esper_es.projections.live.structures import Location, entries, entry_at, leaves, stream_in

Where = tuple[int | str | None, ...]
"""Position and keyword of an argument, and the keys that lead to an entry in it; see ``results.argument_of``."""


@frozen(eq=False)
class Given:
    """Tensors among the arguments of a call, with copies made before it ran."""

    where: tuple[Where, ...]
    objects: tuple[Any, ...]
    tensors: tuple[torch.Tensor | None, ...]
    alone: bool


@frozen(eq=False)
class Taken:
    """A call of a module.

    Attributes:
        where: the tensors among its arguments, in the order of its signature.
        inputs: copies of them, made before the call.
        stream: where the stream of its result stands; None where it returns no tensor.
        output: copy of the stream; None where it returns no tensor.
        returns: template of its result; see ``results``.
        alone: whether one positional argument is all it was given.
        left_out: what it returned that no template can say, by its location.
    """

    where: tuple[Where, ...]
    inputs: tuple[torch.Tensor, ...]
    stream: Location | None
    output: torch.Tensor | None
    returns: Json
    alone: bool
    left_out: Mapping[Location, Any] = field(factory=dict)


def given_to(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Given:
    """Keep the arguments of a call that is about to begin."""
    found = [
        ((*where, *location), leaf)
        for where, argument in _arguments(module, args, kwargs)
        for location, leaf in leaves(argument)
    ]
    return Given(
        where=tuple(where for where, _ in found),
        objects=tuple(leaf for _, leaf in found),
        tensors=tuple(leaf.clone() if isinstance(leaf, torch.Tensor) else None for _, leaf in found),
        alone=len(args) == 1 and not kwargs and isinstance(args[0], torch.Tensor),
    )


def _arguments(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterator[tuple[tuple[int | None, str | None], Any]]:
    """Yield the arguments of a call by position and keyword, in the order of the signature."""
    parameters = list(inspect.signature(original_class(module).forward).parameters.values())[1:]
    both = [p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    for position, value in enumerate(args):
        yield (position, both[position] if position < len(both) else None), value
    known = [parameter.name for parameter in parameters]
    for name in sorted(kwargs, key=lambda name: known.index(name) if name in known else len(known)):
        yield (both.index(name) if name in both else None, name), kwargs[name]


def taken_from(given: Given, output: Any) -> Taken:
    """Keep a call that has ended."""
    stream = stream_in(output)
    left_out: dict[Location, Any] = {}
    template = _Template(given, stream, left_out).of(output, ())
    tensors = [(w, t) for w, t in zip(given.where, given.tensors, strict=True) if t is not None]
    return Taken(
        where=tuple(where for where, _ in tensors),
        inputs=tuple(tensor for _, tensor in tensors),
        stream=stream,
        output=None if stream is None else entry_at(output, stream).clone(),
        returns=template,
        alone=given.alone,
        left_out=left_out,
    )


@frozen(eq=False)
class _Template:
    """Writes the template of a result; what it can't say goes to ``left_out``."""

    given: Given
    stream: Location | None
    left_out: dict[Location, Any]

    def of(self, value: Any, location: Location) -> Json:
        if location == self.stream:
            return STREAM
        if value is None:
            return None
        if isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
            return {"value": value}
        for where, argument in zip(self.given.where, self.given.objects, strict=True):
            if value is argument:
                return {"argument": list(where)}
        return self._structure(value, location)

    def _structure(self, value: Any, location: Location) -> Json:
        fields = [[key, self.of(entry, (*location, key))] for key, entry in entries(value)]
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            named = [[name, template] for name, (_, template) in zip(value._fields, fields, strict=True)]
            return {"namedtuple": [type(value).__name__, named]}
        if isinstance(value, (tuple, list)):
            return {"list" if isinstance(value, list) else "tuple": [template for _, template in fields]}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._record(value, dict(fields))
        if isinstance(value, Mapping) and all(isinstance(key, (str, int)) for key in value):
            return {"dict": fields}
        self.left_out[location] = value
        return None

    def _record(self, value: Any, known: dict[str, Json]) -> Json:
        fields = [[entry.name, known.get(entry.name)] for entry in dataclasses.fields(value)]
        form = "record" if isinstance(value, Mapping) else "dataclass"
        return {form: [type(value).__name__, fields]}
