"""Results and attributes built from templates: what a removed layer showed, without any class of the user's.

A template is JSON: ``"stream"`` for the stream; None for what is left out; ``{"value": plain value}``;
``{"argument": [...]}`` for an argument that the layer handed on; ``{"tuple": [...]}``, ``{"list": [...]}``,
``{"dict": [[key, ...]]}``; ``{"namedtuple" | "dataclass" | "record": [class name, [[field, ...]]]}``.

An attribute is ``{"value": plain value}``, or ``{"module": {name: attribute}}`` for a module that others read from.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, namedtuple
from collections.abc import Mapping, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

from esper_es.domain.canonical import Json

STREAM = "stream"


def argument_of(where: Sequence[Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return an argument of a call.

    Args:
        where: its position (None if it goes by keyword only), its keyword (None if it goes by position only), and
            the keys that lead to an entry in it.
        args: positional arguments.
        kwargs: keyword arguments.

    Raises:
        TypeError: if the call does not give it.
    """
    position, keyword, *inner = where
    if keyword is not None and keyword in kwargs:
        value = kwargs[keyword]
    elif position is not None and position < len(args):
        value = args[position]
    else:
        what = f"argument {position}" if keyword is None else repr(keyword)
        raise TypeError(f"a removed layer let its {what} through, and it is called without that")
    for key in inner:
        value = value[key]
    return value


def filled(template: Json, stream: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return a result after a template, from the stream and the call that it came with."""
    if template == STREAM:
        return stream
    if template is None:
        return None
    ((form, content),) = template.items()
    if form == "value":
        return content
    if form == "argument":
        return argument_of(content, args, kwargs)
    if form == "tuple":
        return tuple(filled(item, stream, args, kwargs) for item in content)
    if form == "list":
        return [filled(item, stream, args, kwargs) for item in content]
    if form == "dict":
        return {key: filled(item, stream, args, kwargs) for key, item in content}
    name, fields = content
    entries = {field: filled(item, stream, args, kwargs) for field, item in fields}
    if form == "record":
        return Record(entries)
    return _FORMS[form](name, tuple(entries))(**entries)


def attribute(template: Json) -> Any:
    """Return an attribute after a template."""
    ((form, content),) = template.items()
    if form == "value":
        return content
    return SimpleNamespace(**{name: attribute(inner) for name, inner in content.items()})


class Record(OrderedDict[str, Any]):
    """A result that is read by key, by attribute or by position, like the outputs of transformers' models.

    Entries of None are attributes only.
    """

    def __init__(self, fields: Any = ()) -> None:
        super().__init__()
        for name, value in dict(fields).items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        if value is not None:
            super().__setitem__(name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the entries in order."""
        return tuple(self.values())

    def copy(self) -> Record:
        return Record({**vars(self), **self})


@cache
def _namedtuple(name: str, fields: tuple[str, ...]) -> type:
    return namedtuple(name, fields)


@cache
def _dataclass(name: str, fields: tuple[str, ...]) -> type:
    return dataclasses.make_dataclass(name, fields)


_FORMS = {"namedtuple": _namedtuple, "dataclass": _dataclass}
