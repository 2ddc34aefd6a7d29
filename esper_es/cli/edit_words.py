"""Edits in words, one function per edit."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from esper_es.cli.layout import count
from esper_es.cli.summaries import place
from esper_es.domain.architecture import Architecture
from esper_es.domain.canonical import Json
from esper_es.domain.edits import (
    AddModule,
    Connect,
    Disconnect,
    Edit,
    Fill,
    Initial,
    RemoveModule,
    ReplaceModule,
    ResizeTensor,
    ScaleSlice,
    ScaleTensor,
    SetAttribute,
    SetScalar,
)


def edit_in_words(edit: Edit) -> str:
    """Return what an edit does, on one line."""
    return _WORDS[type(edit)](edit)


def inline(value: Json) -> str:
    """Return a JSON value on one line that can be wrapped."""
    return json.dumps(value, ensure_ascii=False)


def _fragment(fragment: Architecture) -> str:
    content = f"{fragment.nodes[''].kind}, {count(fragment.parameter_count, 'parameter')}"
    return content if len(fragment.nodes) == 1 else f"{content}, {count(len(fragment.nodes), 'module')}"


def _initial(initial: Initial) -> str:
    return "built by the caller" if initial.given else f"initialised from seed {initial.seed}"


def _fill(fill: Fill) -> str:
    arguments = "".join(f" {name}={value:g}" for name, value in fill.arguments.items())
    place = "" if fill.offset is None else f", from element {fill.offset}"
    return f"{fill.initializer}{arguments}, seed {fill.seed}{place}"


def _add(edit: AddModule) -> str:
    after = "last" if edit.after is None else f"after {edit.after}"
    return f"add module {edit.path} ({_fragment(edit.fragment)}) {after}, {_initial(edit.initial)}"


def _remove(edit: RemoveModule) -> str:
    return f"remove module {edit.path}"


def _replace(edit: ReplaceModule) -> str:
    kept = "" if edit.keep is None else f", keeping {place(edit.keep)} as {place(edit.keep_as)}"
    return f"replace module {edit.path} by {_fragment(edit.fragment)}{kept}, {_initial(edit.initial)}"


def _resize(edit: ResizeTensor) -> str:
    entries = f"{len(edit.gather)} entries, {edit.gather.kept} kept and {edit.gather.added} new"
    fill = "" if edit.fill is None else f" ({_fill(edit.fill)})"
    return f"resize {edit.tensor} along dimension {edit.dim} to {entries}{fill}"


def _scale(edit: ScaleTensor) -> str:
    return f"multiply {edit.tensor} by {edit.factor!r}"


def _scale_slice(edit: ScaleSlice) -> str:
    slices = count(len(edit.indices), "slice")
    return f"multiply {slices} of {edit.tensor} along dimension {edit.dim} by {edit.factor!r}"


def _set_attribute(edit: SetAttribute) -> str:
    return f"set {place(edit.path)} {edit.name} to {inline(edit.value)}"


def _set_scalar(edit: SetScalar) -> str:
    return f"set {edit.tensor} to {edit.value!r}"


def _connect(edit: Connect) -> str:
    c = edit.connection
    via = "" if c.via is None else f" through {c.via}"
    if c.kind == "after":
        return f"connect {c.id}: run {c.via} on the output of {place(c.source)}"
    return f"connect {c.id}: {place(c.source)} joins {place(c.target)}{via} ({c.join})"


def _disconnect(edit: Disconnect) -> str:
    return f"disconnect {edit.id}"


_WORDS: Final[Mapping[type, Callable[[Any], str]]] = {
    AddModule: _add,
    RemoveModule: _remove,
    ReplaceModule: _replace,
    ResizeTensor: _resize,
    ScaleTensor: _scale,
    ScaleSlice: _scale_slice,
    SetAttribute: _set_attribute,
    SetScalar: _set_scalar,
    Connect: _connect,
    Disconnect: _disconnect,
}
