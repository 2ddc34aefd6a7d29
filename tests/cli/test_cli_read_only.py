"""Reading commands where neither log, nor directory, nor vault may be written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from full_disks import filled
from privileges import sealed, without_privileges
from program_runs import Program

from esper_es import Engine

READING = (
    ("log",),
    ("show", "6"),
    ("diff", "2", "6"),
    ("tree", "6"),
    ("blame", "0"),
    ("models",),
    ("audit", "architecture"),
    ("verify",),
    ("replay", "--to", "6", "--check"),
    ("rollback", "--to", "5", "--dry-run"),
)


@pytest.fixture
def published(recorded_once: Path, public_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a copy of the recorded history that every user may read."""
    place = public_directory / "project"
    shutil.copytree(recorded_once, place)
    monkeypatch.chdir(place)
    return place


@pytest.mark.parametrize("arguments", READING, ids=" ".join)
def test_a_reading_command_answers_as_it_does_where_all_may_be_written(
    arguments: tuple[str, ...], published: Path, esper: Program
) -> None:
    free = esper(*arguments)
    for file in (
        *published.glob("*-wal"),
        *published.glob("*-shm"),
        *published.glob("runs.vault/index.db-*"),
    ):
        file.unlink()
    with sealed(published):
        answer = esper(*arguments)
    assert (answer, answer.code) == (free, 0)


@pytest.mark.parametrize("arguments", READING, ids=" ".join)
def test_a_writer_at_work_does_no_harm(arguments: tuple[str, ...], published: Path, esper: Program) -> None:
    with Engine("sqlite:///runs.db"):
        assert esper(*arguments).code == 0  # loads what it needs, which another user may not
        with sealed(published):
            assert esper(*arguments).code == 0


def test_facts_that_a_killed_writer_left_in_the_write_ahead_log_are_read(
    published: Path, esper: Program
) -> None:
    killed = published / "killed"
    with Engine("sqlite:///runs.db") as engine:
        engine.fork("digits", name="newest", version=5)
        shutil.copytree(published, killed, ignore=shutil.ignore_patterns("killed"))
    assert (killed / "runs.db-wal").stat().st_size
    with sealed(published):
        answer = esper("models", "--db", str(killed / "runs.db"))
    assert "newest" in answer.out


def test_a_write_ahead_log_that_cannot_be_read_is_not_passed_over(published: Path, esper: Program) -> None:
    torn = published / "torn"
    with Engine("sqlite:///runs.db") as engine:
        engine.fork("digits", name="newest", version=5)
        shutil.copytree(published, torn, ignore=shutil.ignore_patterns("torn", "*-shm"))
    with sealed(published):
        answer = esper("models", "--db", str(torn / "runs.db"))
    assert (answer.code, answer.out) == (2, "")
    assert "copy both files to a directory of your own" in answer.err


def test_a_rollback_that_cannot_be_recorded_is_one_clear_error(published: Path, esper: Program) -> None:
    esper("rollback", "--to", "5", "--dry-run")
    with sealed(published):
        answer = esper("rollback", "--to", "5", "--yes")
    assert answer.code == 2
    assert "cannot be written" in answer.err


def test_a_log_in_a_directory_that_may_not_be_looked_into_is_one_clear_error(
    published: Path, esper: Program
) -> None:
    esper("log")
    published.chmod(0o700)
    with without_privileges():
        answer = esper("log", "--db", str(published / "runs.db"))
    assert answer.code == 2
    assert "may not look into" in answer.err


def test_a_history_on_a_full_disk_is_read_and_a_rollback_there_is_one_clear_error(
    recorded_once: Path, small_disk: Path, esper: Program
) -> None:
    shutil.copytree(recorded_once, small_disk, dirs_exist_ok=True)
    place = ("--db", str(small_disk / "runs.db"))
    with filled(small_disk):
        codes = [esper(*arguments, *place).code for arguments in READING]
        refused = esper("rollback", "--to", "5", "--yes", *place)
        assert (codes, refused.code) == ([0] * len(READING), 2)
        assert "disk is full" in refused.err
    assert esper("verify", *place).code == 0
    assert esper("rollback", "--to", "5", "--yes", *place).code == 0
