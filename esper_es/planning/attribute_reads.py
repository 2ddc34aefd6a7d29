"""Which plain attributes a forward pass reads, and which it writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from attrs import field, frozen
from torch import nn


@frozen
class Uses:
    """``(path, attribute)`` of what was read and written."""

    read: set[tuple[str, str]] = field(factory=set)
    written: set[tuple[str, str]] = field(factory=set)


@contextmanager
def watched_attributes(modules: Mapping[str, nn.Module]) -> Iterator[Uses]:
    """Collect every use of an attribute of ``modules`` while it is open; values are put back afterwards.

    Their classes are swapped for subclasses meanwhile.
    """
    seen = Uses()
    classes = {path: type(module) for path, module in modules.items()}
    paths = {id(module): path for path, module in modules.items()}
    watching: dict[type[nn.Module], type[nn.Module]] = {}
    before = {path: dict(module.__dict__) for path, module in modules.items()}
    try:
        for path, module in modules.items():
            cls = classes[path]
            if cls not in watching:
                watching[cls] = _watching(cls, paths, seen)
            module.__class__ = watching[cls]
        yield seen
    finally:
        for path, module in modules.items():
            module.__class__ = classes[path]
            module.__dict__.update(before[path])


def _watching(cls: type[nn.Module], paths: Mapping[int, str], seen: Uses) -> type[nn.Module]:
    def read(self: Any, name: str) -> Any:
        seen.read.add((paths.get(id(self), ""), name))
        return cls.__getattribute__(self, name)

    def write(self: Any, name: str, value: Any) -> None:
        seen.written.add((paths.get(id(self), ""), name))
        cls.__setattr__(self, name, value)

    body = {"__getattribute__": read, "__setattr__": write, "__module__": cls.__module__}
    return type(cls.__name__, (cls,), body)
