"""Brings the audit tables up to date with facts: inside the transaction that appends them, or from the log anew.

Nothing is remembered between calls: what a fact changes is worked out from what the tables hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, bindparam, delete, func, select, text

from esper_es.domain.envelope import Envelope
from esper_es.domain.errors import LedgerError, UsageError
from esper_es.domain.facts import (
    AlphaChanged,
    CapturesReleased,
    DecisionReceived,
    DecisionSettled,
    EpochEnded,
    LayerAdded,
    LayerRemoved,
    LayerWidthModified,
    ModelRegistered,
    RolledBack,
    RunResumed,
    SeedAdvanced,
    SeedCulled,
    SeedFossilized,
    SeedGerminated,
    SeedInherited,
    SeedPlanted,
    SkipConnectionAdded,
    SkipConnectionRemoved,
    StateCaptured,
    SurgeryRefused,
    WatchClosed,
    WatchOpened,
)
from esper_es.projections.audit import capture_facts, model_facts, seed_facts, surgery_facts
from esper_es.projections.audit.history_rows import add_history
from esper_es.projections.audit.log_tables import epoch_metrics, history
from esper_es.projections.audit.tables import TABLES
from esper_es.projections.audit.writer import Writer

_HANDLERS: Final[Mapping[type, Callable[[Writer, Envelope, Any], None]]] = {
    ModelRegistered: model_facts.register_model,
    RunResumed: model_facts.resume_run,
    EpochEnded: model_facts.end_epoch,
    DecisionReceived: model_facts.receive_decision,
    DecisionSettled: model_facts.settle_decision,
    StateCaptured: capture_facts.capture_state,
    CapturesReleased: capture_facts.release_captures,
    RolledBack: capture_facts.roll_back,
    LayerAdded: surgery_facts.add_layer,
    LayerRemoved: surgery_facts.remove_layer,
    LayerWidthModified: surgery_facts.modify_width,
    SkipConnectionAdded: surgery_facts.add_skip_connection,
    SkipConnectionRemoved: surgery_facts.remove_skip_connection,
    SurgeryRefused: surgery_facts.refuse_surgery,
    WatchOpened: surgery_facts.open_watch,
    WatchClosed: surgery_facts.close_watch,
    SeedPlanted: seed_facts.plant_seed,
    SeedInherited: seed_facts.inherit_seed,
    SeedGerminated: seed_facts.germinate_seed,
    SeedAdvanced: seed_facts.advance_seed,
    AlphaChanged: seed_facts.change_alpha,
    SeedCulled: seed_facts.cull_seed,
    SeedFossilized: seed_facts.fossilize_seed,
}
"""Facts that are not here have all they say in their row of `history`."""

_NEWEST: Final = select(func.max(history.c.version)).where(history.c.model_id == bindparam("model"))
_BATCH: Final = 500


def project(connection: Connection, envelopes: Sequence[Envelope]) -> None:
    """Write what facts change in the audit tables.

    Args:
        connection: its transaction appends the facts too.
        envelopes: of each model, those that follow the ones already projected, in order.

    Raises:
        LedgerError: if the tables miss earlier facts of a model, or do not fit them.
    """
    _require_next(connection, envelopes)
    writer = Writer(connection)
    for envelope in envelopes:
        add_history(writer, envelope)
        handler = _HANDLERS.get(type(envelope.fact))
        if handler is not None:
            handler(writer, envelope, envelope.fact)
    writer.write()


def rebuild(connection: Connection, envelopes: Iterable[Envelope]) -> None:
    """Empty the audit tables and fill them anew.

    Appends wait until the transaction ends. The envelopes are read after that wait has begun, so that a
    generator over the log misses none.

    Args:
        connection: in a transaction that has not read anything yet.
        envelopes: every fact of every model, those of one model in order.

    Raises:
        UsageError: if they end before the facts that the tables have seen; roll back then.
        LedgerError: if they do not fit one another.
    """
    _keep_appends_waiting(connection)
    seen = projected_versions(connection)
    for table in reversed(TABLES):
        connection.execute(delete(table))
    facts = iter(envelopes)
    while batch := tuple(islice(facts, _BATCH)):
        project(connection, batch)
    _require_no_less(projected_versions(connection), seen)


def projected_versions(connection: Connection) -> dict[UUID, int]:
    """Return, by model, the version up to which the audit tables have seen its facts."""
    query = select(history.c.model_id, func.max(history.c.version)).group_by(history.c.model_id)
    return {UUID(model): version for model, version in connection.execute(query)}


def _require_next(connection: Connection, envelopes: Sequence[Envelope]) -> None:
    for model, first in _first_versions(envelopes):
        newest = connection.scalar(_NEWEST, {"model": str(model)}) or 0
        if first != newest + 1:
            raise LedgerError(
                f"the audit tables have seen model {model} up to version {newest}, so version {first} cannot "
                "follow: rebuild them from the log"
            )


def _first_versions(envelopes: Sequence[Envelope]) -> Iterator[tuple[UUID, int]]:
    firsts = {envelope.originator_id: envelope.version for envelope in reversed(envelopes)}
    yield from firsts.items()


def _keep_appends_waiting(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("LOCK TABLE history IN EXCLUSIVE MODE"))
    else:
        # The first write takes SQLite's only write lock. A read before it could not wait for other writers.
        connection.execute(delete(epoch_metrics))


def _require_no_less(now: Mapping[UUID, int], seen: Mapping[UUID, int]) -> None:
    for model, version in seen.items():
        if now.get(model, 0) < version:
            raise UsageError(
                f"the audit tables had seen model {model} up to version {version}, the facts given end at "
                f"{now.get(model, 0)}: give every fact of the log"
            )
