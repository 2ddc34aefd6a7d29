"""Appending facts: what is stored, who wins a race, and what a failure leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event
from time import sleep
from uuid import UUID, uuid4

import pytest
from lossy_proxy import lossy_network
from sqlalchemy import Connection, Engine, insert, select, text

from esper_es.domain.errors import ConflictError, LedgerError, OutcomeUnknownError, UsageError
from esper_es.ledger import kernel
from esper_es.ledger.connections import writing
from esper_es.ledger.database import open_database
from esper_es.ledger.heads import heads
from esper_es.ledger.kernel import StoredEvent
from esper_es.ledger.recorder import SQLAlchemyRecorder
from esper_es.ledger.tables import facts, followers

from .events import event, history
from .workers import START_SECONDS, append_first_version, run_together


def test_sequence_numbers_grow_over_all_models(recorder: SQLAlchemyRecorder) -> None:
    first, second = uuid4(), uuid4()
    one = recorder.insert_events(history(first, 2))
    two = recorder.insert_events([event(second, 1), event(first, 3), event(second, 2)])
    assert one + two == sorted({*one, *two})


def test_an_auditor_finds_facts_by_their_stable_name(
    engine: Engine, recorder: SQLAlchemyRecorder, model: UUID
) -> None:
    recorder.insert_events([event(model, 1, "model.registered/1"), event(model, 2, "surgery.layer_added/3")])
    with engine.connect() as connection:
        query = text("SELECT version, schema FROM facts WHERE name = 'surgery.layer_added'")
        assert connection.execute(query).all() == [(2, 3)]


def test_a_body_comes_back_byte_for_byte(recorder: SQLAlchemyRecorder, model: UUID) -> None:
    state = bytes(range(256))
    recorder.insert_events([event(model, 1, state=state)])
    assert recorder.select_events(model)[0].state == state


def test_the_moment_is_read_where_the_caller_says(engine: Engine, model: UUID) -> None:
    def moment(stored: StoredEvent) -> str:
        return str(json.loads(stored.state)["at"])

    state = b'{"at":"2026-02-03T04:05:06.000007+00:00"}'
    SQLAlchemyRecorder(engine, moment=moment).insert_events([event(model, 1, state=state)])
    with engine.connect() as connection:
        assert connection.scalar(select(facts.c.at)) == "2026-02-03T04:05:06.000007+00:00"


def test_facts_of_a_model_known_by_text_are_found_by_its_uuid(
    recorder: SQLAlchemyRecorder, model: UUID
) -> None:
    recorder.insert_events([StoredEvent(str(model).upper(), 1, "a/1", b"{}")])
    assert len(recorder.select_events(model)) == 1


def test_a_version_that_exists_conflicts(recorder: SQLAlchemyRecorder, model: UUID) -> None:
    recorder.insert_events(history(model, 2))
    with pytest.raises(ConflictError, match=r"version 2 .* is already recorded"):
        recorder.insert_events([event(model, 2)])


def test_a_conflict_is_the_error_that_eventsourcing_expects(
    recorder: SQLAlchemyRecorder, model: UUID
) -> None:
    recorder.insert_events(history(model, 1))
    with pytest.raises(kernel.IntegrityError):
        recorder.insert_events([event(model, 1)])


def test_a_conflict_keeps_nothing_of_the_append(recorder: SQLAlchemyRecorder, model: UUID) -> None:
    other = uuid4()
    recorder.insert_events(history(model, 1))
    with pytest.raises(ConflictError):
        recorder.insert_events([event(other, 1), event(model, 1)])
    assert recorder.select_events(other) == []


def test_a_version_that_leaves_a_gap_is_refused(recorder: SQLAlchemyRecorder, model: UUID) -> None:
    recorder.insert_events(history(model, 2))
    with pytest.raises(LedgerError, match="would leave a gap: the next version is 3"):
        recorder.insert_events([event(model, 4)])


def test_a_fact_that_bypassed_the_heads_is_a_conflict(
    engine: Engine, recorder: SQLAlchemyRecorder, model: UUID
) -> None:
    bypassing = {"name": "a", "schema": 1, "at": "", "body": b"", "previous_hash": "", "hash": ""}
    with engine.begin() as connection:
        connection.execute(insert(facts).values(model_id=str(model), version=1, **bypassing))
    with pytest.raises(ConflictError, match="verify_chain"):
        recorder.insert_events([event(model, 1)])


def test_an_unknown_option_is_refused(recorder: SQLAlchemyRecorder, model: UUID) -> None:
    with pytest.raises(UsageError, match="inlin"):
        recorder.insert_events([event(model, 1)], inlin=print)


def test_exactly_one_of_many_racing_threads_wins_a_version(recorder: SQLAlchemyRecorder, model: UUID) -> None:
    rounds, writers = 8, 6
    barrier = Barrier(writers)

    def race(_: int) -> int:
        won = 0
        for version in range(1, rounds + 1):
            barrier.wait(START_SECONDS)
            try:
                recorder.insert_events([event(model, version)])
                won += 1
            except ConflictError:
                pass
        return won

    with ThreadPoolExecutor(writers) as pool:
        assert sum(pool.map(race, range(writers))) == rounds


def test_a_writer_waits_until_the_one_before_it_has_committed(recorder: SQLAlchemyRecorder) -> None:
    inside, leave = Event(), Event()

    def linger(_: Connection) -> None:
        inside.set()
        assert leave.wait(START_SECONDS)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(recorder.insert_events, history(uuid4(), 1), inline=linger)
        assert inside.wait(START_SECONDS)
        second = pool.submit(recorder.insert_events, history(uuid4(), 1))
        sleep(0.2)
        overtaken = second.done()
        leave.set()
        first.result()
        second.result()
    assert not overtaken


def test_exactly_one_of_several_racing_processes_wins_a_version(database_url: str) -> None:
    open_database(database_url).dispose()
    assert sorted(run_together(append_first_version, database_url, 3)) == ["lost", "lost", "won"]


def test_inline_work_commits_with_the_facts(
    engine: Engine, recorder: SQLAlchemyRecorder, model: UUID
) -> None:
    recorder.insert_events([event(model, 1)], inline=add_follower)
    with engine.connect() as connection:
        assert connection.scalar(select(followers.c.name)) == "inline"


def test_inline_work_sees_the_facts_it_goes_with(recorder: SQLAlchemyRecorder, model: UUID) -> None:
    seen: list[int] = []
    recorder.insert_events(
        history(model, 2), inline=lambda connection: seen.extend(connection.scalars(select(facts.c.version)))
    )
    assert seen == [1, 2]


def fail(connection: Connection) -> None:
    add_follower(connection)
    raise RuntimeError("the read model is broken")


def add_follower(connection: Connection) -> None:
    connection.execute(insert(followers).values(name="inline", position=0))


def add_follower_twice(connection: Connection) -> None:
    add_follower(connection)
    add_follower(connection)


@pytest.mark.parametrize("inline", [fail, add_follower_twice])
def test_failing_inline_work_undoes_facts_and_heads(
    engine: Engine, recorder: SQLAlchemyRecorder, model: UUID, inline: Callable[[Connection], None]
) -> None:
    with pytest.raises(Exception, match=r"broken|UNIQUE|unique"):
        recorder.insert_events([event(model, 1)], inline=inline)
    with engine.connect() as connection:
        assert (recorder.select_events(model), heads(connection)) == ([], {})


def test_failing_inline_work_is_not_taken_for_a_conflict(recorder: SQLAlchemyRecorder, model: UUID) -> None:
    with pytest.raises(Exception, match=r"(?i)unique") as caught:
        recorder.insert_events([event(model, 1)], inline=add_follower_twice)
    assert not isinstance(caught.value, ConflictError)


def test_after_a_failure_the_same_version_can_be_appended(recorder: SQLAlchemyRecorder, model: UUID) -> None:
    with pytest.raises(RuntimeError):
        recorder.insert_events([event(model, 1)], inline=fail)
    assert len(recorder.insert_events([event(model, 1)])) == 1


def test_a_database_that_fails_is_a_ledger_error(sqlite_url: str, model: UUID) -> None:
    engine = open_database(f"{sqlite_url}?timeout=0.1")
    other = open_database(sqlite_url)
    with writing(other), pytest.raises(LedgerError, match=r"runs\.db.*database is locked"):
        SQLAlchemyRecorder(engine).insert_events([event(model, 1)])
    other.dispose()
    engine.dispose()


def end_own_connection(connection: Connection) -> None:
    connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))


@pytest.mark.postgresql
def test_a_connection_lost_before_commit_keeps_nothing(postgresql_url: str, model: UUID) -> None:
    engine = open_database(postgresql_url)
    recorder = SQLAlchemyRecorder(engine)
    with pytest.raises(LedgerError, match="nothing of this append is in the log"):
        recorder.insert_events([event(model, 1)], inline=end_own_connection)
    assert recorder.select_events(model) == []
    engine.dispose()


@pytest.mark.postgresql
def test_an_append_whose_commit_went_unanswered_is_found_in_the_log(
    postgresql_url: str, model: UUID, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with lossy_network(postgresql_url, tmp_path_factory.mktemp("p")) as network:
        engine = open_database(network.url)
        recorder = SQLAlchemyRecorder(engine)
        network.losing_commit.set()
        sequences = recorder.insert_events(history(model, 2))
        assert (len(sequences), network.losing_commit.is_set()) == (2, False)
        engine.dispose()


@pytest.mark.postgresql
def test_an_append_whose_outcome_cannot_be_learnt_says_so(
    postgresql_url: str, model: UUID, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with lossy_network(postgresql_url, tmp_path_factory.mktemp("p")) as network:
        engine = open_database(network.url)
        network.staying_down = True
        network.losing_commit.set()
        with pytest.raises(OutcomeUnknownError, match=r"version 2 of model .* is unknown"):
            SQLAlchemyRecorder(engine).insert_events(history(model, 2))
        engine.dispose()
