"""What the code around a module reads from it, and from the modules inside it, while a model runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attrs import define, field
from torch import nn

from esper_es.domain.architecture import join_path

_OF_EVERY_MODULE = frozenset(dir(nn.Module()))

CALL = "forward"
"""What stands for a call in the place of a name."""


@define(eq=False)
class Reads:
    """What was read from a module from outside of its call.

    Attributes:
        names: dotted, relative to the module; a module that was called from outside is told of by ``forward``.
    """

    names: set[str] = field(factory=set)
    inside: int = 0


@contextmanager
def watched_reads(module: nn.Module) -> Iterator[Reads]:
    """Collect what is read from a module and those below it, but not what every module has.

    Args:
        module: of a copy of the model; classes are swapped meanwhile.
    """
    reads = Reads()
    originals = [(path, part, type(part)) for path, part in module.named_modules()]
    try:
        for path, part, original in originals:
            part.__class__ = _watched_class(original, path, reads)
        yield reads
    finally:
        for _, part, original in originals:
            part.__class__ = original


def _watched_class(original: type[nn.Module], path: str, reads: Reads) -> type[nn.Module]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if path and not reads.inside:
            reads.names.add(join_path(path, CALL))
        reads.inside += 1
        try:
            return original.__call__(self, *args, **kwargs)
        finally:
            reads.inside -= 1

    def read(self: Any, name: str) -> Any:
        value = original.__getattribute__(self, name)
        if not reads.inside and name not in _OF_EVERY_MODULE:
            reads.names.add(join_path(path, name))
        return value

    def read_registered(self: Any, name: str) -> Any:
        value = original.__getattr__(self, name)
        if not reads.inside:
            reads.names.add(join_path(path, name))
        return value

    body = {"__call__": call, "__getattribute__": read, "__getattr__": read_registered}
    return type(original.__name__, (original,), body)
