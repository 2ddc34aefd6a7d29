"""Rows of the `facts` table as values, and the two columns a topic is kept in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, Self
from uuid import UUID

from attrs import frozen
from sqlalchemy import Select, select

from esper_es.ledger.kernel import StoredEvent
from esper_es.ledger.tables import facts

_TOPIC: Final = re.compile(r"(?P<name>.+)/(?P<schema>[1-9][0-9]{0,8})", re.DOTALL)


def split_topic(topic: str) -> tuple[str, int]:
    """Split `"surgery.layer_added/1"` into name and schema version; any other topic is a name of schema 0."""
    match = _TOPIC.fullmatch(topic)
    return (match["name"], int(match["schema"])) if match else (topic, 0)


def join_topic(name: str, schema: int) -> str:
    """Inverse of `split_topic`."""
    return f"{name}/{schema}" if schema else name


@frozen
class StoredFactRow:
    """One fact as stored. `at` is ISO 8601 in UTC with microseconds, hashes are SHA-256 in hex."""

    sequence: int
    model_id: UUID
    version: int
    name: str
    schema: int
    at: str
    body: bytes
    previous_hash: str
    hash: str

    @classmethod
    def of(cls, row: Sequence[Any]) -> Self:
        """The value of a row that `select_rows` selected."""
        sequence, model_id, version, name, schema, at, body, previous_hash, hash_ = row
        return cls(sequence, UUID(model_id), version, name, schema, at, body, previous_hash, hash_)

    def to_event(self) -> StoredEvent:
        """The same fact in the form that a `Mapper` reads."""
        return StoredEvent(self.model_id, self.version, join_topic(self.name, self.schema), self.body)


COLUMNS: Final = 9
"""Columns of a row that `select_rows` selects."""


def select_rows() -> Select[Any]:
    """SELECT the columns of `StoredFactRow`, in its order."""
    c = facts.c
    return select(c.sequence, c.model_id, c.version, c.name, c.schema, c.at, c.body, c.previous_hash, c.hash)
