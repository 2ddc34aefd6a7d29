"""Facts to append in these tests."""

from __future__ import annotations

from uuid import UUID

from esper_es.ledger.kernel import StoredEvent


def event(
    model: UUID, version: int, topic: str = "surgery.layer_added/1", state: bytes = b'{"layer":"conv1"}'
) -> StoredEvent:
    return StoredEvent(model, version, topic, state)


def history(model: UUID, length: int, *, first: int = 1) -> list[StoredEvent]:
    return [event(model, version, state=b'{"n":%d}' % version) for version in range(first, first + length)]
