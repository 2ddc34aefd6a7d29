"""Opening a log: what can be opened, and what is said about what cannot."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path
from threading import Thread
from uuid import UUID

import pytest
from privileges import without_privileges
from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from esper_es.domain.errors import LedgerError
from esper_es.ledger.database import open_database
from esper_es.ledger.recorder import SQLAlchemyRecorder

from .events import event, history


def pragma(engine: Engine, name: str) -> object:
    with engine.connect() as connection:
        return connection.scalar(text(f"PRAGMA {name}"))


def test_a_log_is_still_there_when_it_is_opened_again(database_url: str, model: UUID) -> None:
    first = open_database(database_url)
    SQLAlchemyRecorder(first).insert_events(history(model, 3))
    first.dispose()
    second = open_database(database_url)
    assert len(SQLAlchemyRecorder(second).select_events(model)) == 3
    second.dispose()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", ":memory:"])
def test_a_log_in_memory_is_shared_between_threads(url: str, model: UUID) -> None:
    engine = open_database(url)
    recorder = SQLAlchemyRecorder(engine)
    thread = Thread(target=recorder.insert_events, args=(history(model, 3),))
    thread.start()
    thread.join()
    assert len(recorder.select_events(model)) == 3
    engine.dispose()


def test_two_logs_in_memory_are_two_logs(model: UUID) -> None:
    one, two = (open_database(":memory:") for _ in range(2))
    SQLAlchemyRecorder(one).insert_events(history(model, 3))
    assert SQLAlchemyRecorder(two).select_events(model) == []
    one.dispose()
    two.dispose()


@pytest.mark.parametrize(
    ("name", "value"),
    [("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1), ("busy_timeout", 30000)],
)
def test_an_sqlite_file_is_durable_and_patient(sqlite_url: str, name: str, value: object) -> None:
    engine = open_database(sqlite_url)
    assert pragma(engine, name) == value
    engine.dispose()


def test_a_relative_path_stays_the_same_file_when_the_directory_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: UUID
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    engine = open_database("sqlite:///runs.db")
    monkeypatch.chdir(tmp_path / "elsewhere")
    engine.dispose()
    SQLAlchemyRecorder(engine).insert_events([event(model, 1)])
    assert not (tmp_path / "elsewhere" / "runs.db").exists()


@pytest.mark.parametrize("name", ["a b.db", "100%.db", "what?.db", "#1.db", "größe.db"])
def test_a_file_with_an_odd_name_can_be_written_and_then_only_read(tmp_path: Path, name: str) -> None:
    url = make_url("sqlite://").set(database=str(tmp_path / name))
    open_database(url).dispose()
    reading = open_database(url, read_only=True)
    assert (tmp_path / name).exists()
    reading.dispose()


def test_a_log_opened_for_reading_can_be_read(database_url: str, model: UUID) -> None:
    writing = open_database(database_url)
    SQLAlchemyRecorder(writing).insert_events(history(model, 3))
    reading = open_database(database_url, read_only=True)
    assert len(SQLAlchemyRecorder(reading).select_events(model)) == 3
    reading.dispose()
    writing.dispose()


def test_a_log_opened_for_reading_cannot_be_written(database_url: str, model: UUID) -> None:
    open_database(database_url).dispose()
    reading = open_database(database_url, read_only=True)
    with pytest.raises((LedgerError, DBAPIError), match=r"(?i)read-?only"):
        SQLAlchemyRecorder(reading).insert_events([event(model, 1)])
    reading.dispose()


def test_opening_for_reading_creates_no_file(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"there is no log at .*runs\.db"):
        open_database(f"sqlite:///{tmp_path / 'runs.db'}", read_only=True)
    assert not (tmp_path / "runs.db").exists()


@pytest.mark.postgresql
def test_opening_an_empty_database_for_reading_creates_no_tables(postgresql_url: str) -> None:
    for _ in range(2):
        with pytest.raises(LedgerError, match="holds no log"):
            open_database(postgresql_url, read_only=True)


@pytest.mark.parametrize("options", [{"read_only": True}, {"upgrade": False}])
def test_a_log_in_memory_cannot_be_opened_without_making_it(options: dict[str, bool]) -> None:
    with pytest.raises(LedgerError, match="starts empty"):
        open_database(":memory:", **options)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("runs.db", r"'runs\.db' is not a database URL: use \"sqlite:///runs\.db\""),
        ("", "is not a database URL"),
        ("mysql://host/db", "cannot be kept in 'mysql'"),
        ("postgresql+asyncpg://host/db", r"cannot be kept in 'postgresql\+asyncpg'"),
        ("sqlite://runs.db", "does not name a plain SQLite file"),
        ("sqlite:///file:runs.db?mode=ro&uri=true", "does not name a plain SQLite file"),
    ],
)
def test_a_url_that_names_no_database_is_refused(url: str, complaint: str) -> None:
    with pytest.raises(LedgerError, match=complaint):
        open_database(url)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=rf"there is no directory {tmp_path / 'runs'}; create it"):
        open_database(f"sqlite:///{tmp_path / 'runs' / 'a.db'}")


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="is a directory: give the path of a file"):
        open_database(f"sqlite:///{tmp_path}")


@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_that_is_not_sqlite_is_refused(tmp_path: Path, read_only: bool) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database " * 200)
    with pytest.raises(LedgerError, match=r"notes\.txt.*file is not a database; give the path of a log"):
        open_database(f"sqlite:///{path}", read_only=read_only)


def test_a_file_that_is_not_sqlite_is_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database " * 200)
    with pytest.raises(LedgerError):
        open_database(f"sqlite:///{path}")
    assert path.read_text() == "not a database " * 200


def test_a_database_of_somebody_else_is_no_log_to_read(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "other.db")
    connection.execute("CREATE TABLE facts (a)")
    connection.close()
    with pytest.raises(LedgerError, match="holds no log"):
        open_database(f"sqlite:///{tmp_path / 'other.db'}", read_only=True)


def test_a_database_whose_tables_are_in_the_way_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "other.db")
    connection.execute("CREATE TABLE facts (a)")
    connection.close()
    with pytest.raises(LedgerError, match="table facts already exists"):
        open_database(f"sqlite:///{tmp_path / 'other.db'}")


def test_a_directory_without_write_permission_is_named(public_directory: Path) -> None:
    public_directory.chmod(0o555)
    with without_privileges(), pytest.raises(LedgerError, match=rf"{public_directory} is read-only"):
        open_database(f"sqlite:///{public_directory / 'runs.db'}")


def test_a_file_without_write_permission_is_named(public_directory: Path) -> None:
    path = public_directory / "runs.db"
    open_database(f"sqlite:///{path}").dispose()
    public_directory.chmod(0o777)
    path.chmod(0o444)
    with without_privileges(), pytest.raises(LedgerError, match=rf"{path} is read-only"):
        open_database(f"sqlite:///{path}")


def test_a_file_without_read_permission_says_what_is_needed(public_directory: Path) -> None:
    path = public_directory / "runs.db"
    open_database(f"sqlite:///{path}").dispose()
    path.chmod(0o000)
    with without_privileges(), pytest.raises(LedgerError, match="must be able to read the file"):
        open_database(f"sqlite:///{path}", read_only=True)


@pytest.mark.postgresql
@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada:sesame@127.0.0.1:1/runs",
        "postgresql://ada@127.0.0.1:1/runs?password=sesame",
        "postgresql://ada:sesame@no-such-host.invalid/runs?connect_timeout=2",
        "postgresql://ada:sesame@localhost:notaport/runs",
        "mysql://ada:sesame@localhost/runs",
        "postgresql://ada:sesame@localhost/runs?no_such_option=1",
    ],
)
def test_a_database_that_cannot_be_reached_is_a_clear_error_without_the_password(url: str) -> None:
    with pytest.raises(LedgerError) as caught:
        open_database(url)
    assert "sesame" not in str(caught.value)


@pytest.mark.postgresql
def test_a_database_that_cannot_be_reached_is_named() -> None:
    with pytest.raises(LedgerError, match=r"postgresql://ada@127\.0\.0\.1:1/runs.*refused.*check host, port"):
        open_database("postgresql://ada:sesame@127.0.0.1:1/runs")


@pytest.mark.postgresql
def test_a_missing_database_is_named(postgresql_url: str) -> None:
    url = make_url(postgresql_url).set(database="nowhere")
    with pytest.raises(LedgerError, match='"nowhere" does not exist'):
        open_database(url)


def test_a_missing_driver_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(LedgerError, match=r"needs the driver psycopg.*pip install 'esper-es\[postgresql\]'"):
        open_database("postgresql://localhost/runs")
