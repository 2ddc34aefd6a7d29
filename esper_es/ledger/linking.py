"""Turns events to append into rows of `facts`, each linked to the one before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeAlias, TypedDict
from uuid import UUID

from esper_es.domain.errors import ConflictError, LedgerError
from esper_es.ledger.chain import GENESIS, link_hash
from esper_es.ledger.heads import Head
from esper_es.ledger.kernel import IntegrityError, StoredEvent
from esper_es.ledger.rows import split_topic

Moment: TypeAlias = Callable[[StoredEvent], str]


class VersionConflictError(IntegrityError, ConflictError):
    """The version is already recorded: another writer appended to this model first."""


class NewRow(TypedDict):
    """Columns of `facts` that the recorder fills; the database adds the sequence."""

    model_id: str
    version: int
    name: str
    schema: int
    at: str
    body: bytes
    previous_hash: str
    hash: str


def clock(_event: StoredEvent) -> str:
    """The present moment: UTC, ISO 8601, microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def model_key(originator_id: UUID | str) -> str:
    """The text by which the tables know a model."""
    return str(originator_id if isinstance(originator_id, UUID) else UUID(originator_id))


def link_rows(events: Sequence[StoredEvent], heads: Mapping[str, Head], moment: Moment) -> list[NewRow]:
    """Rows that continue the logs of their models from the given heads; a model without one begins at 0 or 1.

    Raises:
        VersionConflictError: a version is not newer than its model's head.
        LedgerError: a version leaves a gap.
    """
    newest = dict(heads)
    rows: list[NewRow] = []
    for event in events:
        model = model_key(event.originator_id)
        head = newest.get(model)
        _require_next(event, head)
        row = _link_row(model, event, head.hash if head else GENESIS, moment(event))
        newest[model] = Head(row["version"], row["hash"])
        rows.append(row)
    return rows


def _link_row(model: str, event: StoredEvent, previous_hash: str, at: str) -> NewRow:
    name, schema = split_topic(event.topic)
    return {
        "model_id": model,
        "version": event.originator_version,
        "name": name,
        "schema": schema,
        "at": at,
        "body": event.state,
        "previous_hash": previous_hash,
        "hash": link_hash(previous_hash, model, event.originator_version, event.topic, at, event.state),
    }


def _require_next(event: StoredEvent, head: Head | None) -> None:
    version, allowed = event.originator_version, (head.version + 1,) if head else (0, 1)
    if version in allowed:
        return
    if head and version <= head.version:
        raise VersionConflictError(
            f"version {version} of model {event.originator_id} is already recorded (its newest is "
            f"{head.version}): read the model again and decide anew"
        )
    raise LedgerError(
        f"version {version} of model {event.originator_id} would leave a gap: "
        f"the next version is {allowed[-1]}"
    )
