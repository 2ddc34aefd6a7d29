"""Read models that trail the log in their own transactions, each fact applied exactly once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from sqlalchemy import Connection, Engine, exists, func, insert, literal, select, update
from sqlalchemy.exc import IntegrityError

from esper_es.domain.errors import UsageError
from esper_es.ledger.connections import writing
from esper_es.ledger.rows import StoredFactRow, select_rows
from esper_es.ledger.tables import facts, followers

Apply: TypeAlias = Callable[[Connection, Sequence[StoredFactRow]], None]
Clear: TypeAlias = Callable[[Connection], None]


def follow(engine: Engine, name: str, apply: Apply, *, batch: int = 500) -> int:
    """Apply every fact that the follower `name` has not seen yet, and return how many this call applied.

    The position and what `apply` writes commit in one transaction, and the position moves only from where
    this call read it. So each fact counts exactly once, also when several processes follow under one name or
    one of them is killed. Call it again to see later facts.

    Args:
        engine: from `open_database`.
        name: the read model's name; it starts at the beginning of the log.
        apply: writes the read model through the given connection, for facts in the order of the log. It may
            be called again with the same facts if its transaction was lost, so let it write only there.
        batch: the most facts in one transaction. On SQLite other writers wait for its end.

    Raises:
        UsageError: `batch` is not positive.
    """
    if batch < 1:
        raise UsageError(f"batch must be at least 1, got {batch}")
    _register(engine, name)
    applied = 0
    while _has_news(engine, name):
        applied += _apply_batch(engine, name, apply, batch)
    return applied


def position(connection: Connection, name: str) -> int:
    """Sequence number of the last fact that the follower has applied; 0 if none."""
    return connection.scalar(select(followers.c.position).where(followers.c.name == name)) or 0


def reset(engine: Engine, name: str, clear: Clear) -> None:
    """Send the follower back to the beginning; `clear` empties its read model in the same transaction.

    The next `follow` builds the read model anew.
    """
    with writing(engine) as connection:
        connection.execute(update(followers).where(followers.c.name == name).values(position=0))
        clear(connection)


def _register(engine: Engine, name: str) -> None:
    known = exists().where(followers.c.name == name)
    with engine.connect() as connection:
        if connection.scalar(select(known)):
            return
    try:
        with writing(engine) as connection:
            row = select(literal(name), literal(0)).where(~known)
            connection.execute(insert(followers).from_select(["name", "position"], row))
    except IntegrityError:
        return  # another process registered the same follower at the same moment


def _has_news(engine: Engine, name: str) -> bool:
    """Whether there is a fact to apply; asked without the lock that a writing transaction takes."""
    with engine.connect() as connection:
        return (connection.scalar(select(func.max(facts.c.sequence))) or 0) > position(connection, name)


def _apply_batch(engine: Engine, name: str, apply: Apply, batch: int) -> int:
    with writing(engine) as connection:
        seen = position(connection, name)
        query = select_rows().where(facts.c.sequence > seen).order_by(facts.c.sequence).limit(batch)
        rows = [StoredFactRow.of(row) for row in connection.execute(query)]
        if not rows:
            return 0
        moved = connection.execute(
            update(followers)
            .where(followers.c.name == name, followers.c.position == seen)
            .values(position=rows[-1].sequence)
        )
        if moved.rowcount != 1:
            return 0  # another process applied these facts first
        apply(connection, rows)
        return len(rows)
