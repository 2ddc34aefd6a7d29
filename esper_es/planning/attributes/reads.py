"""Which plain attributes a forward pass reads, and which it writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from attrs import field, frozen

Place = tuple[str, str]
"""Path of a module, and the name under which it holds an object; an empty one for the module itself."""


@frozen
class Uses:
    """``(path, attribute)`` of what was read and written; attributes of an object that a module holds are dotted."""

    read: set[tuple[str, str]] = field(factory=set)
    written: set[tuple[str, str]] = field(factory=set)


@contextmanager
def watched_attributes(owners: Mapping[Place, Any]) -> Iterator[Uses]:
    """Collect every use of an attribute of ``owners`` while it is open; values are put back afterwards.

    Their classes are swapped for subclasses meanwhile.
    """
    seen = Uses()
    classes = {place: type(owner) for place, owner in owners.items()}
    places = {id(owner): place for place, owner in owners.items()}
    watching: dict[type, type] = {}
    before = {place: dict(vars(owner)) for place, owner in owners.items()}
    try:
        for place, owner in owners.items():
            cls = classes[place]
            if cls not in watching:
                watching[cls] = _watching(cls, places, seen)
            owner.__class__ = watching[cls]
        yield seen
    finally:
        for place, owner in owners.items():
            object.__setattr__(owner, "__class__", classes[place])
            vars(owner).update(before[place])


def _watching(cls: Any, places: Mapping[int, Place], seen: Uses) -> type:
    synonyms: Mapping[str, str] = getattr(cls, "attribute_map", {})

    def at(owner: object, name: str) -> tuple[str, str]:
        path, held = places.get(id(owner), ("", ""))
        return (path, f"{held}.{synonyms.get(name, name)}") if held else (path, name)

    def read(self: Any, name: str) -> Any:
        seen.read.add(at(self, name))
        return cls.__getattribute__(self, name)

    def write(self: Any, name: str, value: Any) -> None:
        seen.written.add(at(self, name))
        cls.__setattr__(self, name, value)

    body = {"__getattribute__": read, "__setattr__": write, "__module__": cls.__module__}
    return type(cls.__name__, (cls,), body)
