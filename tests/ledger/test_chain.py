"""Every kind of tampering with stored facts is found, by somebody who owns the database."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, Engine, inspect, text

from esper_es.domain.errors import IntegrityFailure
from esper_es.ledger.chain import Finding, Tampering, link_hash, verify_chain
from esper_es.ledger.heads import Head, heads
from esper_es.ledger.recorder import SQLAlchemyRecorder
from esper_es.ledger.rows import join_topic

from .events import event, history

LENGTH = 6


@pytest.fixture
def owner(engine: Engine, recorder: SQLAlchemyRecorder, model: UUID) -> Engine:
    """A log of one model with six facts and a second with two, whose protecting triggers were dropped."""
    recorder.insert_events(history(model, LENGTH))
    recorder.insert_events(history(uuid4(), 2))
    with engine.begin() as connection:
        drop_triggers(connection)
    return engine


def drop_triggers(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        statements = [f"ALTER TABLE {table} DISABLE TRIGGER ALL" for table in ("facts", "heads")]
    else:
        names = connection.scalars(text("SELECT name FROM sqlite_master WHERE type = 'trigger'"))
        statements = [f"DROP TRIGGER {name}" for name in names]
    for statement in statements:
        connection.execute(text(statement))


def tamper(engine: Engine, *statements: str, **values: object) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement), values)


def verify(engine: Engine, exported: dict[UUID, Head] | None = None) -> list[Finding]:
    with engine.connect() as connection:
        return verify_chain(connection, exported)


def found(engine: Engine, exported: dict[UUID, Head] | None = None) -> set[tuple[Tampering, int]]:
    return {(finding.kind, finding.version) for finding in verify(engine, exported)}


def current_heads(engine: Engine) -> dict[UUID, Head]:
    with engine.connect() as connection:
        return heads(connection)


def test_an_untouched_log_verifies(owner: Engine) -> None:
    assert verify(owner, current_heads(owner)) == []


def test_an_empty_log_verifies(engine: Engine) -> None:
    assert verify(engine) == []


def test_a_log_that_grew_since_its_heads_were_exported_verifies(
    owner: Engine, recorder: SQLAlchemyRecorder, model: UUID
) -> None:
    exported = current_heads(owner)
    recorder.insert_events(history(model, 2, first=LENGTH + 1))
    assert verify(owner, exported) == []


def test_a_log_verifies_while_writers_are_at_work(engine: Engine, recorder: SQLAlchemyRecorder) -> None:
    def write(model: UUID) -> None:
        for version in range(1, 81):
            recorder.insert_events([event(model, version)])

    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write, uuid4()) for _ in range(2)]
        findings = []
        while not all(writer.done() for writer in writers):
            findings += verify(engine)
    assert findings == []


@pytest.mark.parametrize(
    "change",
    [
        "body = '{}'",
        "name = 'surgery.layer_removed'",
        "schema = 2",
        "at = '2020-01-01T00:00:00.000000+00:00'",
        "hash = '" + "0" * 64 + "'",
    ],
)
def test_an_altered_column_is_found(owner: Engine, model: UUID, change: str) -> None:
    tamper(owner, f"UPDATE facts SET {change} WHERE model_id = :m AND version = 3", m=str(model))
    assert (Tampering.ALTERED, 3) in found(owner)


def test_an_alteration_names_the_model_and_the_version(owner: Engine, model: UUID) -> None:
    tamper(owner, "UPDATE facts SET schema = 9 WHERE model_id = :m AND version = 3", m=str(model))
    [finding] = verify(owner)
    assert (finding.model_id, finding.version) == (str(model), 3)


def test_an_alteration_hidden_by_a_new_hash_is_found_at_the_next_fact(owner: Engine, model: UUID) -> None:
    rewrite(owner, model, version=3, body=b"{}")
    assert found(owner) == {(Tampering.RELINKED, 4)}


def test_a_fact_moved_to_another_model_is_found(owner: Engine, model: UUID) -> None:
    tamper(
        owner,
        "UPDATE facts SET model_id = :n WHERE model_id = :m AND version = 3",
        m=str(model),
        n=str(uuid4()),
    )
    assert {(Tampering.ALTERED, 3), (Tampering.REMOVED, 4)} <= found(owner)


def test_a_removed_fact_is_found(owner: Engine, model: UUID) -> None:
    tamper(owner, "DELETE FROM facts WHERE model_id = :m AND version = 3", m=str(model))
    assert found(owner) == {(Tampering.REMOVED, 4)}


def test_a_removed_fact_whose_gap_was_closed_is_found(owner: Engine, model: UUID) -> None:
    tamper(
        owner,
        "DELETE FROM facts WHERE model_id = :m AND version = 3",
        "UPDATE facts SET version = 3 WHERE model_id = :m AND version = 4",
        m=str(model),
    )
    assert (Tampering.ALTERED, 3) in found(owner)


def test_a_removed_beginning_is_found(owner: Engine, model: UUID) -> None:
    tamper(owner, "DELETE FROM facts WHERE model_id = :m AND version < 3", m=str(model))
    assert found(owner) == {(Tampering.REMOVED, 3)}


def test_a_removed_end_is_found_by_the_table_of_heads(owner: Engine, model: UUID) -> None:
    tamper(owner, "DELETE FROM facts WHERE model_id = :m AND version > 4", m=str(model))
    assert found(owner) == {(Tampering.REMOVED, LENGTH)}


def test_a_removed_end_whose_head_was_moved_back_is_found_by_exported_heads(
    owner: Engine, model: UUID
) -> None:
    exported = current_heads(owner)
    cut_and_move_head(owner, model, newest=4)
    assert (found(owner), found(owner, exported)) == (set(), {(Tampering.REMOVED, LENGTH)})


def test_a_removed_model_is_found_by_the_table_of_heads(owner: Engine, model: UUID) -> None:
    tamper(owner, "DELETE FROM facts WHERE model_id = :m", m=str(model))
    assert found(owner) == {(Tampering.REMOVED, LENGTH)}


def test_a_model_removed_with_its_head_is_found_by_exported_heads(owner: Engine, model: UUID) -> None:
    exported = current_heads(owner)
    tamper(
        owner, "DELETE FROM facts WHERE model_id = :m", "DELETE FROM heads WHERE model_id = :m", m=str(model)
    )
    assert found(owner, exported) == {(Tampering.REMOVED, LENGTH)}


def test_swapped_versions_are_found(owner: Engine, model: UUID) -> None:
    tamper(
        owner,
        "UPDATE facts SET version = 99 WHERE model_id = :m AND version = 3",
        "UPDATE facts SET version = 3 WHERE model_id = :m AND version = 4",
        "UPDATE facts SET version = 4 WHERE model_id = :m AND version = 99",
        m=str(model),
    )
    assert {(Tampering.ALTERED, 3), (Tampering.ALTERED, 4)} <= found(owner)


def test_swapped_sequence_numbers_are_found(owner: Engine, model: UUID) -> None:
    tamper(
        owner,
        "UPDATE facts SET sequence = 1000 WHERE sequence = 3",
        "UPDATE facts SET sequence = 3 WHERE sequence = 4",
        "UPDATE facts SET sequence = 4 WHERE sequence = 1000",
    )
    assert found(owner) == {(Tampering.REORDERED, 4)}


def test_a_duplicated_fact_is_found(owner: Engine, model: UUID) -> None:
    allow_duplicates(owner)
    columns = "model_id, version, name, schema, at, body, previous_hash, hash"
    tamper(
        owner,
        f"INSERT INTO facts (sequence, {columns}) SELECT 1000, {columns} FROM facts "
        "WHERE model_id = :m AND version = 3",
        m=str(model),
    )
    assert (Tampering.DUPLICATED, 3) in found(owner)


def test_an_inserted_fact_is_found(owner: Engine, model: UUID) -> None:
    tamper(
        owner,
        "INSERT INTO facts (model_id, version, name, schema, at, body, previous_hash, hash) "
        "SELECT model_id, 7, name, schema, at, body, hash, hash FROM facts "
        "WHERE model_id = :m AND version = 6",
        m=str(model),
    )
    assert (Tampering.HEAD_MISMATCH, LENGTH) in found(owner)


def test_a_head_with_another_hash_is_found(owner: Engine, model: UUID) -> None:
    tamper(owner, "UPDATE heads SET hash = :h WHERE model_id = :m", m=str(model), h="0" * 64)
    assert found(owner) == {(Tampering.HEAD_MISMATCH, LENGTH)}


def test_a_removed_head_is_found(owner: Engine, model: UUID) -> None:
    tamper(owner, "DELETE FROM heads WHERE model_id = :m", m=str(model))
    assert found(owner) == {(Tampering.HEAD_MISMATCH, LENGTH)}


def test_a_history_rewritten_with_all_its_hashes_is_found_by_exported_heads(
    owner: Engine, model: UUID
) -> None:
    exported = current_heads(owner)
    for version in range(3, LENGTH + 1):
        rewrite(owner, model, version=version, body=b"{}")
    cut_and_move_head(owner, model, newest=LENGTH)
    assert (found(owner), found(owner, exported)) == (set(), {(Tampering.HEAD_MISMATCH, LENGTH)})


def test_a_body_that_became_text_is_found(memory_engine: Engine, model: UUID) -> None:
    SQLAlchemyRecorder(memory_engine).insert_events([event(model, 1, state=b"{}")])
    with memory_engine.begin() as connection:
        drop_triggers(connection)
    tamper(memory_engine, "UPDATE facts SET body = CAST(body AS TEXT)")
    assert found(memory_engine) == {(Tampering.ALTERED, 1)}


def test_a_version_that_is_no_number_is_found(memory_engine: Engine, model: UUID) -> None:
    SQLAlchemyRecorder(memory_engine).insert_events(history(model, 3))
    with memory_engine.begin() as connection:
        drop_triggers(connection)
    tamper(memory_engine, "UPDATE facts SET version = 'two' WHERE version = 2")
    assert any(finding.kind is Tampering.ALTERED for finding in verify(memory_engine))


def test_a_head_that_is_no_number_is_found(memory_engine: Engine, model: UUID) -> None:
    SQLAlchemyRecorder(memory_engine).insert_events(history(model, 3))
    with memory_engine.begin() as connection:
        drop_triggers(connection)
    tamper(memory_engine, "UPDATE heads SET model_id = 'x', version = 'y'")
    assert found(memory_engine) == {(Tampering.HEAD_MISMATCH, 3), (Tampering.REMOVED, 0)}


@pytest.mark.parametrize("version", [1, 3, LENGTH])
def test_an_altered_fact_is_not_read(
    owner: Engine, recorder: SQLAlchemyRecorder, model: UUID, version: int
) -> None:
    tamper(
        owner,
        "UPDATE facts SET body = :b WHERE model_id = :m AND version = :v",
        b=b"{}",
        m=str(model),
        v=version,
    )
    with pytest.raises(IntegrityFailure, match=f"version {version} of model .* the row was altered"):
        recorder.select_events(model)


def test_a_fact_that_was_hashed_anew_is_not_read_beside_the_next_one(
    owner: Engine, recorder: SQLAlchemyRecorder, model: UUID
) -> None:
    rewrite(owner, model, version=3, body=b"{}")
    with pytest.raises(IntegrityFailure, match=r"version 4 of model .* recorded after another version 3"):
        recorder.select_events(model, desc=True)


def test_facts_beside_an_altered_one_are_read(
    owner: Engine, recorder: SQLAlchemyRecorder, model: UUID
) -> None:
    tamper(owner, "UPDATE facts SET body = :b WHERE model_id = :m AND version = 3", b=b"{}", m=str(model))
    assert [e.originator_version for e in recorder.select_events(model, gt=3)] == [4, 5, 6]


def test_a_subscription_does_not_hand_on_an_altered_fact(
    owner: Engine, recorder: SQLAlchemyRecorder, model: UUID
) -> None:
    tamper(owner, "UPDATE facts SET body = :b WHERE model_id = :m AND version = 3", b=b"{}", m=str(model))
    with pytest.raises(IntegrityFailure, match="version 3 of model"):
        recorder.select_notifications(1, 10)


def rewrite(engine: Engine, model: UUID, *, version: int, body: bytes) -> None:
    """Replace a body and compute its hash anew from the fact that is stored before it."""
    with engine.begin() as connection:
        where = "WHERE model_id = :m AND version = :v"
        key = {"m": str(model), "v": version}
        previous = connection.scalar(text(f"SELECT hash FROM facts {where}"), key | {"v": version - 1})
        name, schema, at = connection.execute(text(f"SELECT name, schema, at FROM facts {where}"), key).one()
        hash_ = link_hash(previous, str(model), version, join_topic(name, schema), at, body)
        connection.execute(
            text(f"UPDATE facts SET body = :b, previous_hash = :p, hash = :h {where}"),
            key | {"b": body, "p": previous, "h": hash_},
        )


def cut_and_move_head(engine: Engine, model: UUID, *, newest: int) -> None:
    """Delete the facts after `newest` and make the table of heads agree."""
    tamper(
        engine,
        "DELETE FROM facts WHERE model_id = :m AND version > :v",
        "UPDATE heads SET version = :v, hash = (SELECT hash FROM facts WHERE model_id = :m AND version = :v) "
        "WHERE model_id = :m",
        m=str(model),
        v=newest,
    )


def allow_duplicates(engine: Engine) -> None:
    if engine.dialect.name == "postgresql":
        [constraint] = inspect(engine).get_unique_constraints("facts")
        tamper(engine, f"ALTER TABLE facts DROP CONSTRAINT {constraint['name']}")
    else:
        tamper(
            engine,
            "CREATE TABLE copy AS SELECT * FROM facts",
            "DROP TABLE facts",
            "ALTER TABLE copy RENAME TO facts",
        )
