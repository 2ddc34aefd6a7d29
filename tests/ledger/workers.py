"""What other processes do in these tests: functions that a spawned process can import."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from uuid import UUID

from sqlalchemy import Connection, text

from esper_es.domain.errors import ConflictError
from esper_es.ledger.database import open_database
from esper_es.ledger.followers import follow
from esper_es.ledger.recorder import SQLAlchemyRecorder
from esper_es.ledger.rows import StoredFactRow

from .events import event

START_SECONDS = 60
barrier: Barrier


def run_together(work: Callable[[str], str], url: str, processes: int) -> list[str]:
    """Run `work`, which waits for the others at `barrier`, in several processes; return what each returned."""
    context = get_context("spawn")
    with context.Pool(processes, _keep_barrier, [context.Barrier(processes)]) as pool:
        return pool.map(work, [url] * processes, chunksize=1)


def _keep_barrier(shared: Barrier) -> None:
    global barrier
    barrier = shared


def open_together(url: str) -> str:
    barrier.wait(START_SECONDS)
    engine = open_database(url)
    engine.dispose()
    return "opened"


def append_first_version(url: str) -> str:
    engine = open_database(url)
    recorder = SQLAlchemyRecorder(engine)
    try:
        barrier.wait(START_SECONDS)
        recorder.insert_events([event(UUID(int=7), 1, state=str(os.getpid()).encode())])
    except ConflictError:
        return "lost"
    finally:
        engine.dispose()
    return "won"


def follow_once_then_die(url: str, deadly_batch: int) -> None:
    """Follow in batches of three, and end without any goodbye in the middle of one of them."""
    batches = 0

    def apply(connection: Connection, rows: Sequence[StoredFactRow]) -> None:
        nonlocal batches
        batches += 1
        record_seen(connection, rows)
        if batches == deadly_batch:
            os._exit(9)

    follow(open_database(url), "view", apply, batch=3)


def record_seen(connection: Connection, rows: Sequence[StoredFactRow]) -> None:
    """A read model: which facts were applied, as often as they were."""
    connection.execute(
        text("INSERT INTO seen VALUES (:sequence)"), [{"sequence": row.sequence} for row in rows]
    )
