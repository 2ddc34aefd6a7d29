"""Tables whose rows hold over a stretch of versions: what is true at a version, and what a fact changes in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import frozen
from sqlalchemy import Connection, Insert, Select, Table, Update, bindparam, insert, or_, select, update

from esper_es.domain.canonical import Json, canonical_bytes
from esper_es.projections.audit.architecture_tables import (
    connections,
    layers,
    placements,
    shared_names,
    tensors,
)
from esper_es.projections.audit.seed_tables import seeds

Content = Mapping[str, Json]


@frozen
class Entry:
    """What a table says of one thing, without the stretch over which it holds.

    Attributes:
        content: values of the table's own columns.
        added_by: version of the fact that first brought the thing in.
        changed_by: version of the fact that gave it this content.
    """

    content: Content
    added_by: int
    changed_by: int


class StretchTable:
    """The statements of one table whose rows hold over stretches.

    Args:
        table: made of ``columns.over_versions``.
    """

    def __init__(self, table: Table) -> None:
        _, key, _, _, *content = (column.name for column in table.columns)
        self.key: Final = key
        self.content: Final = tuple(content[:-3])  # the last ones say by which facts
        c = table.c
        of_model = c.model_id == bindparam("model")
        is_open = c.valid_to_version.is_(None)
        rows = select(c[key], c.added_by_version, c.changed_by_version, *(c[name] for name in self.content))
        rows = rows.where(of_model).order_by(c[key])
        self.select_open: Final[Select[Any]] = rows.where(is_open)
        self.select_open_one: Final[Select[Any]] = rows.where(is_open, c[key] == bindparam("key"))
        self.select_at: Final[Select[Any]] = rows.where(
            c.valid_from_version <= bindparam("at"), or_(is_open, c.valid_to_version > bindparam("at"))
        )
        self.close: Final[Update] = (
            update(table)
            .where(of_model, is_open, c[key] == bindparam("key"))
            .values(valid_to_version=bindparam("until"), removed_by_version=bindparam("removed_by"))
        )
        self.open: Final[Insert] = insert(table)

    def now(self, connection: Connection, model: str) -> dict[str, Entry]:
        """Return what is true of a model now."""
        return self._read(connection, self.select_open, model=model)

    def now_of(self, connection: Connection, model: str, key: str) -> dict[str, Entry]:
        """Return what is true of one thing now; nothing if there is no such thing."""
        return self._read(connection, self.select_open_one, model=model, key=key)

    def at(self, connection: Connection, model: str, version: int) -> dict[str, Entry]:
        """Return what was true at a version."""
        return self._read(connection, self.select_at, model=model, at=version)

    def _read(self, connection: Connection, query: Select[Any], **parameters: Any) -> dict[str, Entry]:
        return {
            key: Entry(dict(zip(self.content, content, strict=True)), added_by, changed_by)
            for key, added_by, changed_by, *content in connection.execute(query, parameters)
        }

    def replace(
        self,
        connection: Connection,
        model: str,
        version: int,
        before: Mapping[str, Entry],
        after: Mapping[str, Entry],
    ) -> None:
        """Let ``after`` be true from ``version`` on in the place of ``before``, which is true until then."""
        changed = {key for key in {*before, *after} if not _same(before.get(key), after.get(key))}
        closing = [
            {
                "model": model,
                "key": key,
                "until": version,
                "removed_by": None if key in after else version,
            }
            for key in sorted(changed & before.keys())
        ]
        opening = [
            {
                "model_id": model,
                self.key: key,
                "valid_from_version": version,
                "valid_to_version": None,
                **after[key].content,
                "added_by_version": after[key].added_by,
                "changed_by_version": after[key].changed_by,
                "removed_by_version": None,
            }
            for key in sorted(changed & after.keys())
        ]
        if closing:
            connection.execute(self.close, closing)
        if opening:
            connection.execute(self.open, opening)


def attributed(
    before: Mapping[str, Entry], contents: Mapping[str, Content], version: int
) -> dict[str, Entry]:
    """Say which fact each content is owed to: the one of ``version`` where it is new or has changed."""
    return {key: _attributed(before.get(key), content, version) for key, content in contents.items()}


def _attributed(before: Entry | None, content: Content, version: int) -> Entry:
    if before is None:
        return Entry(content, version, version)
    if _same_content(before.content, content):
        return before
    return Entry(content, before.added_by, version)


def _same(before: Entry | None, after: Entry | None) -> bool:
    if before is None or after is None or before is after:
        return before is after
    owed = (before.added_by, before.changed_by) == (after.added_by, after.changed_by)
    return owed and _same_content(before.content, after.content)


def _same_content(before: Content, after: Content) -> bool:
    # As JSON: a list is a tuple that was read back, but 1 is neither 1.0 nor true.
    return canonical_bytes(dict(before)) == canonical_bytes(dict(after))


LAYERS: Final = StretchTable(layers)
PLACEMENTS: Final = StretchTable(placements)
TENSORS: Final = StretchTable(tensors)
CONNECTIONS: Final = StretchTable(connections)
SHARED_NAMES: Final = StretchTable(shared_names)
SEEDS: Final = StretchTable(seeds)

ARCHITECTURE: Final = (LAYERS, PLACEMENTS, TENSORS, CONNECTIONS, SHARED_NAMES)
"""The tables that together hold the architecture."""
