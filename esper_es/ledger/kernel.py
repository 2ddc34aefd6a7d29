"""The names this package takes from `eventsourcing`, imported in this one place.

Importing `eventsourcing.domain` wraps `dataclasses._process_class` for the whole process (it keeps
eventsourcing's own aggregate classes from being processed twice; other dataclasses pass through). Every
module of `eventsourcing` imports it. So nothing else in this package imports `eventsourcing`.
"""

from __future__ import annotations

from eventsourcing.application import AggregateNotFoundError, Repository
from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    EventStore,
    IntegrityError,
    Mapper,
    Notification,
    Recording,
    StoredEvent,
    Subscription,
    Transcoder,
)

__all__ = [
    "AggregateNotFoundError",
    "AggregateRecorder",
    "ApplicationRecorder",
    "EventStore",
    "IntegrityError",
    "Mapper",
    "Notification",
    "Recording",
    "Repository",
    "StoredEvent",
    "Subscription",
    "Transcoder",
]
