"""What was changed in the schema of a log is found and named."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text

from esper_es.ledger.database import open_database
from esper_es.ledger.schema_check import schema_deviations


def found(engine: Engine) -> list[tuple[str, str, bool]]:
    with engine.connect() as connection:
        return [
            (deviation.table, deviation.message, deviation.harmless)
            for deviation in schema_deviations(connection)
        ]


def change(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def declare(table: str, words: str, others: str) -> tuple[str, ...]:
    """Statements that change the text of a declaration in SQLite, as an editor of the file could."""
    return (
        "PRAGMA writable_schema = ON",
        f"UPDATE sqlite_schema SET sql = replace(sql, '{words}', '{others}') WHERE name = '{table}'",
        "PRAGMA writable_schema = RESET",
    )


def test_a_log_as_it_was_made_has_no_deviations(engine: Engine) -> None:
    assert found(engine) == []


def test_tables_of_other_programs_do_not_count(engine: Engine) -> None:
    change(engine, "CREATE TABLE plots (title TEXT)", "CREATE INDEX by_title ON plots (title)")
    change(engine, "CREATE VIEW newest AS SELECT * FROM heads")
    assert found(engine) == []


SQLITE: dict[str, tuple[tuple[str, ...], str, str]] = {
    "a trigger dropped": (
        ("DROP TRIGGER facts_refuse_update",),
        "facts",
        "the trigger facts_refuse_update is missing",
    ),
    "a trigger weakened": (
        (
            "DROP TRIGGER heads_refuse_delete",
            "CREATE TRIGGER heads_refuse_delete BEFORE DELETE ON heads WHEN 0 BEGIN SELECT 1; END",
        ),
        "heads",
        "the trigger heads_refuse_delete is not as it was made: it says",
    ),
    "a trigger added": (
        ("CREATE TRIGGER tidy AFTER INSERT ON facts BEGIN DELETE FROM seeds; END",),
        "facts",
        "the trigger tidy was added",
    ),
    "an index dropped": (
        ("DROP INDEX ix_seeds_model_id_valid_to_version",),
        "seeds",
        "the index ix_seeds_model_id_valid_to_version is missing",
    ),
    "a table dropped": (
        ("DROP TABLE watch_verdicts",),
        "watch_verdicts",
        "the table watch_verdicts is missing",
    ),
    "a column added": (
        ("ALTER TABLE heads ADD COLUMN note TEXT",),
        "heads",
        "the table heads is not as it was made: it says note TEXT instead of nothing",
    ),
    "a type changed": (
        declare("facts", "body BLOB", "body TEXT"),
        "facts",
        "it says body TEXT NOT NULL instead of body BLOB NOT NULL",
    ),
    "a constraint taken away": (
        declare("facts", "previous_hash VARCHAR(64) NOT NULL", "previous_hash VARCHAR(64)"),
        "facts",
        "it says previous_hash VARCHAR(64) instead of previous_hash VARCHAR(64) NOT NULL",
    ),
}


@pytest.mark.parametrize("case", SQLITE)
def test_a_change_of_an_sqlite_schema_is_named(case: str, memory_engine: Engine) -> None:
    statements, table, words = SQLITE[case]
    with memory_engine.connect().execution_options(esper_es_begin=None) as connection:
        for statement in statements:
            connection.execute(text(statement))
    [(where, message, harmless)] = found(memory_engine)
    assert (where, harmless) == (table, False)
    assert words in message


POSTGRESQL: dict[str, tuple[str, str, str]] = {
    "a trigger dropped": (
        "DROP TRIGGER facts_refuse_change ON facts",
        "facts",
        "facts_refuse_change is missing",
    ),
    "a trigger disabled": (
        "ALTER TABLE facts DISABLE TRIGGER facts_refuse_change",
        "facts",
        "facts_refuse_change is disabled",
    ),
    "a trigger fires less often": (
        "CREATE OR REPLACE TRIGGER facts_refuse_change BEFORE DELETE ON facts "
        "FOR EACH STATEMENT EXECUTE FUNCTION esper_es_refuse_change()",
        "facts",
        "the trigger facts_refuse_change, or its function, is not as it was made",
    ),
    "a function hollowed out": (
        "CREATE OR REPLACE FUNCTION esper_es_refuse_retreat() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RETURN NEW; END $$",
        "heads",
        "the trigger heads_refuse_retreat, or its function, is not as it was made",
    ),
    "a trigger added": (
        "CREATE TRIGGER extra BEFORE UPDATE ON seeds FOR EACH ROW EXECUTE FUNCTION esper_es_refuse_change()",
        "seeds",
        "the trigger extra was added",
    ),
    "a rule added": (
        "CREATE RULE lose AS ON INSERT TO seeds DO INSTEAD NOTHING",
        "seeds",
        "the rule lose was added",
    ),
    "row security": ("ALTER TABLE facts ENABLE ROW LEVEL SECURITY", "facts", "row security was switched on"),
    "an index dropped": (
        "DROP INDEX ix_seeds_model_id_valid_to_version",
        "seeds",
        "the index ix_seeds_model_id_valid_to_version on model_id, valid_to_version is missing",
    ),
    "a table dropped": ("DROP TABLE watch_verdicts", "watch_verdicts", "the table is missing"),
    "a column added": ("ALTER TABLE heads ADD COLUMN note TEXT", "heads", "the column note was added"),
    "a column dropped": ("ALTER TABLE facts DROP COLUMN at", "facts", "the column at is missing"),
    "a type changed": (
        "ALTER TABLE facts ALTER COLUMN hash TYPE VARCHAR(65)",
        "facts",
        "the column hash is not as it was made: its type is VARCHAR(length=65) instead of String(length=64)",
    ),
    "nulls allowed": (
        "ALTER TABLE facts ALTER COLUMN hash DROP NOT NULL",
        "facts",
        "the column hash is not as it was made: its nullable is True instead of False",
    ),
    "a key dropped": ("ALTER TABLE heads DROP CONSTRAINT pk_heads", "heads", "the primary key is on nothing"),
    "a uniqueness dropped": (
        "ALTER TABLE facts DROP CONSTRAINT uq_facts_model_id_version",
        "facts",
        "uq_facts_model_id_version on model_id, version is missing",
    ),
    "a check added": (
        "ALTER TABLE heads ADD CONSTRAINT few CHECK (version < 100)",
        "heads",
        "the constraint few was added",
    ),
}


@pytest.mark.postgresql
@pytest.mark.parametrize("case", POSTGRESQL)
def test_a_change_of_a_postgresql_schema_is_named(case: str, postgresql_url: str) -> None:
    statement, table, words = POSTGRESQL[case]
    engine = open_database(postgresql_url)
    change(engine, statement)
    [(where, message, harmless)] = found(engine)
    assert (where, harmless) == (table, False)
    assert words in message
    engine.dispose()


def test_an_added_index_is_harmless(engine: Engine) -> None:
    change(engine, "CREATE INDEX faster ON layers (kind)")
    [(_, message, harmless)] = found(engine)
    assert harmless
    assert "the index faster" in message


@pytest.mark.postgresql
def test_another_comment_is_harmless(postgresql_url: str) -> None:
    engine = open_database(postgresql_url)
    change(engine, "COMMENT ON COLUMN facts.body IS 'mine'")
    [(_, message, harmless)] = found(engine)
    assert harmless
    assert "its comment is 'mine'" in message
    engine.dispose()


def test_a_reader_without_any_other_right_can_check(database_url: str) -> None:
    open_database(database_url).dispose()
    engine = open_database(database_url, read_only=True)
    assert found(engine) == []
    engine.dispose()
