"""Index maps of a stored fact: a long one that stands in several places is written once.

It stands in the list ``"index_maps"`` of the fact, and ``"index_maps[0]"`` in its places.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, TypeAlias

import orjson

from esper_es.domain.canonical import Json
from esper_es.ledger.unreadable import Unreadable

TABLE: Final = "index_maps"
LONGEST: Final = 4
"""Runs of a map that is always written where it stands."""

_Place: TypeAlias = tuple[dict[str, Json], str]
"""The object that holds a map, and the key."""

_OF_FACT: Final = ("kept_units",)
_OF_EDIT: Final = ("gather", "indices")
_REFERENCE: Final = re.compile(rf"{TABLE}\[(0|[1-9][0-9]*)\]")


def with_shared_maps(fact: dict[str, Json]) -> dict[str, Json]:
    """Return a fact with the maps that stand in several places in a list of their own."""
    if not any(_is_long(holder[name]) for holder, name in _places(fact)):
        return fact
    shared = _copied(fact)
    standing: dict[bytes, list[_Place]] = {}
    for holder, name in _places(shared):
        if _is_long(holder[name]):
            standing.setdefault(orjson.dumps(holder[name]), []).append((holder, name))
    maps: list[Json] = []
    for places in standing.values():
        if len(places) > 1:
            holder, name = places[0]
            reference = f"{TABLE}[{len(maps)}]"
            maps.append(holder[name])
            for holder, name in places:
                holder[name] = reference
    return {**shared, TABLE: maps} if maps else fact


def without_shared_maps(fact: dict[str, Json]) -> dict[str, Json]:
    """Return a stored fact with every map where it stands.

    Raises:
        Unreadable: if one is not in the list, or stands nowhere.
    """
    if TABLE not in fact:
        return fact
    plain = _copied(fact)
    maps = plain.pop(TABLE)
    used = set[str]()
    for holder, name in _places(plain):
        reference = holder[name]
        if isinstance(reference, str):
            holder[name] = _referred(reference, maps)
            used.add(reference)
    if not used or len(used) != len(maps):
        raise Unreadable(f"fact: has unknown ['{TABLE}'], which stand nowhere")
    return plain


def _is_long(runs: Json) -> bool:
    return isinstance(runs, list) and len(runs) > LONGEST


def _referred(reference: str, maps: Json) -> Json:
    found = _REFERENCE.fullmatch(reference)
    if found is None or not isinstance(maps, list) or int(found[1]) >= len(maps):
        raise Unreadable(f"fact: has no map {reference!r}")
    return maps[int(found[1])]


def _copied(fact: dict[str, Json]) -> dict[str, Json]:
    return {**fact, "edits": [dict(edit) if isinstance(edit, dict) else edit for edit in fact["edits"]]}


def _places(fact: dict[str, Json]) -> Iterator[_Place]:
    """Yield every place of a map."""
    for name in _OF_FACT:
        if name in fact:
            yield fact, name
    for edit in fact["edits"]:
        if isinstance(edit, dict):
            for name in _OF_EDIT:
                if name in edit:
                    yield edit, name
