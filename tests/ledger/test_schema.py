"""The schema: migrations and tables agree, old logs are upgraded, newer ones are refused."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path
from time import sleep
from uuid import UUID

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

import esper_es.migrations
from esper_es.domain.errors import LedgerError
from esper_es.ledger.chain import verify_chain
from esper_es.ledger.connections import connect_engine, writing
from esper_es.ledger.database import open_database
from esper_es.ledger.recorder import SQLAlchemyRecorder
from esper_es.ledger.revisions import VERSION_TABLE, known_revisions, lock_revision, upgrade_schema
from esper_es.ledger.urls import database_url as normalised
from esper_es.projections.schema import metadata

from .events import history
from .workers import open_together, run_together

ROOT = Path(__file__).parents[2]
FIRST, HEAD = known_revisions()[0], known_revisions()[-1]


def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", esper_es.migrations.__path__[0])
    return ScriptDirectory.from_config(config)


@pytest.fixture
def alembic(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The shipped configuration of alembic, for the database named by the environment."""
    monkeypatch.setenv("ESPER_ES_DB", database_url)
    return Config(str(ROOT / "alembic.ini"))


def test_migrations_build_exactly_the_declared_tables(engine: Engine) -> None:
    with engine.connect() as connection:
        options = {"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []


def test_a_log_in_memory_has_the_same_tables_and_triggers_as_a_file(
    memory_engine: Engine, sqlite_url: str
) -> None:
    file_engine = open_database(sqlite_url)
    query = text("SELECT type, name, sql FROM sqlite_master ORDER BY type, name")
    with memory_engine.connect() as memory, file_engine.connect() as file:
        assert memory.execute(query).all() == file.execute(query).all()
    file_engine.dispose()


def test_file_names_tell_the_same_history_as_alembic() -> None:
    told = [script.revision for script in scripts().walk_revisions()]
    assert list(known_revisions()) == told[::-1]


def test_the_newest_revision_is_recorded(engine: Engine) -> None:
    with engine.connect() as connection:
        assert connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}")) == HEAD


def test_alembic_on_the_command_line_upgrades_a_database_named_by_option(sqlite_url: str) -> None:
    options = ["-c", str(ROOT / "alembic.ini"), "-x", f"url={sqlite_url}"]
    subprocess.run([sys.executable, "-m", "alembic", *options, "upgrade", "head"], check=True)
    open_database(sqlite_url, upgrade=False).dispose()


def test_alembic_upgrades_a_database_named_by_the_environment(alembic: Config, database_url: str) -> None:
    command.upgrade(alembic, "head")
    open_database(database_url, upgrade=False).dispose()


def test_alembic_finds_nothing_to_generate(alembic: Config, database_url: str) -> None:
    open_database(database_url).dispose()
    command.check(alembic)  # raises if it does


@pytest.mark.parametrize("url", ["sqlite://", "postgresql://localhost/runs"])
def test_alembic_prints_sql(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPER_ES_DB", url)
    printed = StringIO()
    command.upgrade(Config(str(ROOT / "alembic.ini"), output_buffer=printed), "head", sql=True)
    assert "CREATE TABLE facts" in printed.getvalue()


def test_alembic_asks_for_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ESPER_ES_DB", raising=False)
    with pytest.raises(LedgerError, match="pass -x url="):
        command.upgrade(Config(str(ROOT / "alembic.ini")), "head")


def test_the_log_cannot_be_downgraded_away(alembic: Config, database_url: str, model: UUID) -> None:
    engine = open_database(database_url)
    SQLAlchemyRecorder(engine).insert_events(history(model, 1))
    with pytest.raises(RuntimeError, match="would delete every fact"):
        command.downgrade(alembic, "base")
    assert len(SQLAlchemyRecorder(engine).select_events(model)) == 1
    engine.dispose()


@pytest.mark.parametrize("revision", known_revisions())
def test_a_log_of_an_older_schema_is_upgraded_and_keeps_its_facts(
    alembic: Config, database_url: str, model: UUID, revision: str
) -> None:
    command.upgrade(alembic, revision)
    older = connect_engine(normalised(database_url))
    SQLAlchemyRecorder(older).insert_events(history(model, 3))
    older.dispose()
    engine = open_database(database_url)
    with engine.connect() as connection:
        assert verify_chain(connection) == []
    assert len(SQLAlchemyRecorder(engine).select_events(model)) == 3
    engine.dispose()


def store_revision(url: str, revision: str) -> None:
    engine = open_database(url)
    with engine.begin() as connection:
        connection.execute(
            text(f"UPDATE {VERSION_TABLE} SET version_num = :revision"), {"revision": revision}
        )
    engine.dispose()


@pytest.mark.parametrize("read_only", [False, True])
def test_a_log_of_a_newer_schema_is_refused(database_url: str, read_only: bool) -> None:
    store_revision(database_url, "9999")
    with pytest.raises(
        LedgerError, match=r"written by a newer release: its schema is 9999.*upgrade esper-es"
    ):
        open_database(database_url, read_only=read_only)


def test_a_log_of_an_older_schema_is_not_opened_for_reading(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_database(database_url).dispose()
    monkeypatch.setattr("esper_es.ledger.database.known_revisions", lambda: (*known_revisions(), "9999"))
    with pytest.raises(LedgerError, match=rf"older release: its schema is {HEAD}.*needs 9999.*upgrade=True"):
        open_database(database_url, read_only=True)


def test_several_processes_may_open_a_new_log_at_once(database_url: str) -> None:
    assert run_together(open_together, database_url, 3) == ["opened"] * 3


def test_opening_a_new_log_waits_for_another_process_that_makes_it(database_url: str) -> None:
    other = connect_engine(normalised(database_url))
    with ThreadPoolExecutor(1) as pool:
        with writing(other) as connection:
            lock_revision(connection)
            opening = pool.submit(open_database, database_url)
            sleep(0.2)
            overtaken = opening.done()
            upgrade_schema(connection)
        opening.result().dispose()
    other.dispose()
    assert not overtaken


def test_opening_a_new_log_waits_for_a_reader_of_its_file(sqlite_url: str) -> None:
    other = connect_engine(normalised(sqlite_url))
    with ThreadPoolExecutor(1) as pool:
        with other.connect() as connection:
            connection.execute(text("SELECT * FROM sqlite_master")).all()
            opening = pool.submit(open_database, sqlite_url)
            sleep(0.2)
        opening.result().dispose()
    other.dispose()


def test_opening_a_current_log_does_not_import_alembic(sqlite_url: str) -> None:
    open_database(sqlite_url).dispose()
    program = (
        "import sys; from esper_es.ledger.database import open_database\n"
        f"open_database({sqlite_url!r}); assert 'alembic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_failed_upgrade_leaves_nothing_behind(database_url: str) -> None:
    url = normalised(database_url)
    blocking = connect_engine(url)
    with blocking.begin() as connection:
        connection.execute(text("CREATE TABLE followers (a INTEGER)"))
    with pytest.raises(LedgerError, match=r"followers.* already exists"):
        open_database(database_url)
    with blocking.connect() as connection:
        assert not connection.dialect.has_table(connection, "facts")
    blocking.dispose()
