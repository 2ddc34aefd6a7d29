"""Followers see each fact exactly once, whoever else follows and whatever fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from threading import Barrier, Event
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, Engine, text

from esper_es.domain.errors import UsageError
from esper_es.ledger.database import open_database
from esper_es.ledger.followers import follow, position, reset
from esper_es.ledger.recorder import SQLAlchemyRecorder
from esper_es.ledger.rows import StoredFactRow

from .events import event, history
from .workers import START_SECONDS, follow_once_then_die, record_seen


@pytest.fixture(autouse=True)
def _view(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE seen (sequence INTEGER)"))


def seen(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        return list(connection.scalars(text("SELECT sequence FROM seen ORDER BY sequence")))


def clear(connection: Connection) -> None:
    connection.execute(text("DELETE FROM seen"))


def test_a_follower_applies_the_log_from_its_beginning(
    engine: Engine, recorder: SQLAlchemyRecorder, model: UUID
) -> None:
    sequences = recorder.insert_events(history(model, 7))
    follow(engine, "view", record_seen, batch=3)
    assert seen(engine) == sequences


def test_following_says_how_many_facts_it_applied(
    engine: Engine, recorder: SQLAlchemyRecorder, model: UUID
) -> None:
    recorder.insert_events(history(model, 7))
    assert [follow(engine, "view", record_seen, batch=3) for _ in range(2)] == [7, 0]


def test_facts_come_as_they_were_recorded(engine: Engine, recorder: SQLAlchemyRecorder, model: UUID) -> None:
    events = history(model, 5)
    recorder.insert_events(events)
    received: list[StoredFactRow] = []
    follow(engine, "view", lambda _, rows: received.extend(rows))
    assert [row.to_event() for row in received] == events


def test_followers_of_different_names_each_see_everything(
    engine: Engine, recorder: SQLAlchemyRecorder, model: UUID
) -> None:
    recorder.insert_events(history(model, 3))
    assert [follow(engine, name, record_seen) for name in ("one", "two")] == [3, 3]


def test_a_batch_that_fails_is_applied_again(
    engine: Engine, recorder: SQLAlchemyRecorder, model: UUID
) -> None:
    sequences = recorder.insert_events(history(model, 7))

    def fail_at_the_second(connection: Connection, rows: Sequence[StoredFactRow]) -> None:
        record_seen(connection, rows)
        if rows[0].sequence > sequences[0]:
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        follow(engine, "view", fail_at_the_second, batch=3)
    follow(engine, "view", record_seen)
    assert seen(engine) == sequences


def test_a_rebuilt_view_equals_the_original(
    engine: Engine, recorder: SQLAlchemyRecorder, model: UUID
) -> None:
    recorder.insert_events(history(model, 7))
    follow(engine, "view", record_seen)
    original = seen(engine)
    reset(engine, "view", clear)
    follow(engine, "view", record_seen, batch=2)
    assert seen(engine) == original


def test_a_reset_whose_clearing_fails_changes_nothing(
    engine: Engine, recorder: SQLAlchemyRecorder, model: UUID
) -> None:
    recorder.insert_events(history(model, 7))
    follow(engine, "view", record_seen)

    def fail(connection: Connection) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        reset(engine, "view", fail)
    with engine.connect() as connection:
        assert position(connection, "view") > 0


def test_a_batch_of_nothing_is_refused(engine: Engine) -> None:
    with pytest.raises(UsageError, match="batch must be at least 1"):
        follow(engine, "view", record_seen, batch=0)


@pytest.fixture
def engines(database_url: str) -> Iterator[list[Engine]]:
    engines = [open_database(database_url) for _ in range(3)]
    yield engines
    for engine in engines:
        engine.dispose()


def test_three_concurrent_followers_apply_each_fact_once(
    engine: Engine, engines: list[Engine], recorder: SQLAlchemyRecorder
) -> None:
    sequences = [n for _ in range(10) for n in recorder.insert_events(history(uuid4(), 30))]
    together = Barrier(len(engines))

    def work(own: Engine) -> int:
        together.wait(START_SECONDS)
        return follow(own, "view", record_seen, batch=4)

    with ThreadPoolExecutor(len(engines)) as pool:
        applied = sum(pool.map(work, engines))
    assert (applied, seen(engine)) == (300, sequences)


def test_followers_miss_nothing_while_writers_write(
    engine: Engine, engines: list[Engine], recorder: SQLAlchemyRecorder
) -> None:
    done = Event()

    def write(own: Engine) -> None:
        model = uuid4()
        for version in range(1, 41):
            SQLAlchemyRecorder(own).insert_events([event(model, version)])

    def tail(own: Engine) -> int:
        applied = 0
        while not done.is_set():
            applied += follow(own, "view", record_seen, batch=5)
        return applied + follow(own, "view", record_seen)

    with ThreadPoolExecutor(6) as pool:
        tails = [pool.submit(tail, own) for own in engines]
        list(pool.map(write, engines))
        done.set()
        applied = sum(future.result() for future in tails)
    assert (applied, len(set(seen(engine)))) == (120, 120)


def test_a_killed_follower_loses_and_repeats_nothing(
    engine: Engine, recorder: SQLAlchemyRecorder, database_url: str, model: UUID
) -> None:
    sequences = recorder.insert_events(history(model, 20))
    process = get_context("spawn").Process(target=follow_once_then_die, args=(database_url, 3))
    process.start()
    process.join(60)
    follow(engine, "view", record_seen)
    assert (process.exitcode, seen(engine)) == (9, sequences)
