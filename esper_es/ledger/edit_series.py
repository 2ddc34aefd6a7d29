"""Lists of edits as they are stored: edits that differ in little are stored as one series.

A series is the JSON of an edit with a key ``"series"`` that tells where in the fact's list such an edit stands,
and in what these edits differ::

    {"edit": "resize_tensor", "tensor": "h.{i}.fc.weight", "dim": 0, "gather": [[0, 768], [-1, 12]],
     "fill": {"initializer": "kaiming", "arguments": {"fan_in": 768.0}},
     "series": {"at": [[4, 3, 12]], "i": [[0, 3]], "seed": [[7, 3, 12]], "digest": ["b3:1", "b3:2", "b3:3"]}}

stands for three edits, at places 4, 16 and 28 of the list, of ``h.0.fc.weight``, ``h.1.fc.weight`` and
``h.2.fc.weight``, each filled from a seed and with a digest of its own. Places are in runs (``number_runs``), seeds
and offsets too where that is shorter, names in patterns (``numbered_names``). The edits outside series stand at the
places that are left, in order, so a list without series is a plain list of edits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import orjson
from attrs import frozen

from esper_es.domain.canonical import Json
from esper_es.domain.edits import (
    EDIT_NAMES,
    RemoveModule,
    ResizeTensor,
    ScaleSlice,
    ScaleTensor,
    SetAttribute,
    SetScalar,
)
from esper_es.ledger.number_runs import numbers_of, runs_of
from esper_es.ledger.numbered_names import Name, patterned, spelled
from esper_es.ledger.unreadable import Unreadable

SERIES: Final = "series"
FEWEST: Final = 3
"""Edits that make a series."""
MOST: Final = 1_000_000
"""Edits in one list, if there is a series: what an altered row could ask for at the most."""

_AT: Final = "at"
_OF_FILL: Final = ("seed", "offset", "digest")
"""What may differ in the fills of a series."""
_NAMED_BY: Final[Mapping[str, str]] = {
    EDIT_NAMES[ResizeTensor]: "tensor",
    EDIT_NAMES[ScaleTensor]: "tensor",
    EDIT_NAMES[ScaleSlice]: "tensor",
    EDIT_NAMES[SetScalar]: "tensor",
    EDIT_NAMES[SetAttribute]: "path",
    EDIT_NAMES[RemoveModule]: "path",
}
"""The field with the name that a series counts through, by edit."""


@frozen(eq=False)
class _Member:
    """An edit that may belong to a series.

    Attributes:
        at: its place in the list.
        edit: itself.
        name: of what it changes.
    """

    at: int
    edit: dict[str, Json]
    name: Name

    @property
    def alike(self) -> bytes:
        """What it shares with the other members of its series."""
        shared = {**self.edit, _NAMED_BY[self.edit["edit"]]: self.name.texts}
        fill = shared.get("fill")
        if fill is not None:
            shared["fill"] = {name: value for name, value in fill.items() if name not in _OF_FILL}
        return orjson.dumps(shared)


def folded_edits(edits: list[dict[str, Json]]) -> list[dict[str, Json]]:
    """Return edits with series in the place of their first members."""
    if not FEWEST <= len(edits) <= MOST:
        return edits
    alike: dict[bytes, list[_Member]] = {}
    for member in _members(edits):
        alike.setdefault(member.alike, []).append(member)
    items: list[dict[str, Json] | None] = list(edits)
    for members in alike.values():
        if len(members) >= FEWEST:
            for member in members:
                items[member.at] = None
            items[members[0].at] = _series(members)
    return [item for item in items if item is not None]


def _members(edits: list[dict[str, Json]]) -> Iterator[_Member]:
    for at, edit in enumerate(edits):
        named_by = _NAMED_BY.get(edit["edit"])
        name = None if named_by is None else Name.of(edit[named_by])
        if name is not None:
            yield _Member(at, edit, name)


def _series(members: list[_Member]) -> dict[str, Json]:
    edit = dict(members[0].edit)
    series: dict[str, Json] = {_AT: runs_of([member.at for member in members])}
    edit[_NAMED_BY[edit["edit"]]], numbers = patterned([member.name for member in members])
    series |= numbers
    if edit.get("fill") is not None:
        edit["fill"] = dict(edit["fill"])
        for field in _OF_FILL:
            values = [member.edit["fill"][field] for member in members]
            if any(value != values[0] for value in values):
                del edit["fill"][field]
                series[field] = _column(values)
    return {**edit, SERIES: series}


def _column(values: list[Json]) -> list[Json]:
    """Return values, as runs where these are fewer by far."""
    if all(type(value) is int for value in values):
        runs = runs_of(values)
        if 3 * len(runs) <= len(values):
            return runs
    return values


def unfolded_edits(items: list[Json], where: str) -> list[Json]:
    """Return the plain edits that a stored list stands for.

    Raises:
        Unreadable: if a series does not make sense.
    """
    plain = [item for item in items if not (isinstance(item, dict) and SERIES in item)]
    if len(plain) == len(items):
        return items
    edits: dict[int, Json] = {}
    count = len(plain)
    for number, item in enumerate(items):
        if isinstance(item, dict) and SERIES in item:
            members = _unfolded(item, MOST - count, f"{where}[{number}]")
            count += len(members)
            edits.update(members)
    if len(plain) + len(edits) != count or not all(0 <= at < count for at in edits):
        raise Unreadable(f"{where}: two edits stand at one place, or one behind the last")
    others = iter(plain)
    return [edits[at] if at in edits else next(others) for at in range(count)]


def _unfolded(item: dict[str, Json], most: int, where: str) -> dict[int, Json]:
    """Return the members of a series, ``most`` at the most, by their places."""
    edit = dict(item)
    series = edit.pop(SERIES)
    if not isinstance(series, dict):
        raise Unreadable(f"{where}.{SERIES} must be an object")
    places = numbers_of(series.get(_AT), most, f"{where}.{SERIES}.{_AT}")
    columns = {name: column for name, column in series.items() if name != _AT}
    fills = _fills(
        edit, {name: columns.pop(name) for name in _OF_FILL if name in columns}, len(places), where
    )
    names = _names(edit, columns, len(places), where)
    members = zip(places, names, fills, strict=True)
    field = _NAMED_BY[edit["edit"]]
    if "fill" in edit:
        return {at: {**edit, field: name, "fill": fill} for at, name, fill in members}
    return {at: {**edit, field: name} for at, name, _ in members}


def _names(edit: dict[str, Json], numbers: Mapping[str, Json], count: int, where: str) -> list[str]:
    """Return the name of each member."""
    kind = edit.get("edit")
    field = _NAMED_BY.get(kind) if isinstance(kind, str) else None
    pattern = None if field is None else edit.get(field)
    if not isinstance(pattern, str):
        raise Unreadable(f"{where} is no edit that comes in series, one of {', '.join(_NAMED_BY)}")
    names = spelled(pattern, numbers, count, f"{where}.{SERIES}")
    if not numbers:
        return names * count
    if len(names) != count:
        raise Unreadable(f"{where}.{SERIES} is of {count} edits, but has {len(names)} numbers")
    return names


def _fills(edit: dict[str, Json], columns: Mapping[str, Json], count: int, where: str) -> list[Json]:
    """Return the fill of each member."""
    fill = edit.get("fill")
    if not columns:
        return [fill] * count
    if not isinstance(fill, dict):
        raise Unreadable(f"{where}.{SERIES} has columns of a fill, but there is none")
    rows = zip(*(_values(columns[name], count, f"{where}.{SERIES}.{name}") for name in columns), strict=True)
    return [{**fill, **dict(zip(columns, row, strict=True))} for row in rows]


def _values(column: Json, count: int, where: str) -> list[Json]:
    """Return the values of a column: one for each member, as they are or as runs."""
    if isinstance(column, list) and any(isinstance(item, list) for item in column):
        column = numbers_of(column, count, where)
    if not isinstance(column, list) or len(column) != count:
        raise Unreadable(f"{where} must be of {count} values")
    return column
