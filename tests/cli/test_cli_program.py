"""The program as a whole: places, exit codes, one error line, one JSON document, 80 columns, no tricks."""

from __future__ import annotations

import hashlib
import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from program_runs import Program
from recorded_history import ROLLBACK, record_digits

from esper_es.cli.layout import words
from esper_es.cli.output import Page, show

COMMANDS = [
    ("models",),
    ("log",),
    ("log", "--oneline"),
    ("show", "1"),
    ("show", "6"),
    ("show", "13"),
    ("show", "14"),
    ("show", "18"),
    ("tree",),
    ("diff", "1", "18"),
    ("blame",),
    ("audit",),
    ("audit", "facts", "--sql"),
    ("audit", "architecture"),
    ("replay", "--check"),
    ("rollback", "--to", "5", "--dry-run"),
    ("verify",),
]
commands = pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)


@commands
def test_no_line_is_wider_than_the_terminal(
    directory: Path, esper: Program, arguments: tuple[str, ...]
) -> None:
    answer = esper(*arguments)
    assert answer.code == 0
    assert max(map(len, answer.out.splitlines())) <= 80


@commands
def test_json_is_one_document(directory: Path, esper: Program, arguments: tuple[str, ...]) -> None:
    assert isinstance(esper(*arguments, "--json").json, dict)


@commands
def test_nothing_in_the_log_reaches_the_terminal_raw(
    directory: Path, esper: Program, arguments: tuple[str, ...]
) -> None:
    out = esper(*arguments).out
    assert all(character.isprintable() or character == "\n" for character in out)


@commands
def test_reading_changes_no_byte_of_log_and_packs(
    directory: Path, esper: Program, arguments: tuple[str, ...]
) -> None:
    before = contents(directory)
    esper(*arguments)
    assert contents(directory) == before


def contents(directory: Path) -> dict[str, str]:
    kept = [directory / "runs.db", *(directory / "runs.vault" / "packs").iterdir()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


@pytest.mark.parametrize("arguments", [("log",), ("models",), ("tree",), ("audit", "facts")])
def test_no_vault_is_needed_or_made_to_read_facts(
    directory: Path, esper: Program, arguments: tuple[str, ...]
) -> None:
    assert esper(*arguments, "--vault", "elsewhere").code == 0
    assert not (directory / "elsewhere").exists()


def test_markup_in_a_reason_is_shown_as_it_is(directory: Path, esper: Program) -> None:
    assert "[bold]capacity[/bold] \\x1b[31mred\\x07" in esper("log").out


@pytest.mark.parametrize(
    "arguments",
    [
        ("log", "--nope"),
        ("nope",),
        ("show",),
        ("show", "six"),
        ("log", "--limit", "0"),
        ("show", "99"),
        ("log", "--db", "nowhere.db"),
        ("log", "--db", "mysql://somewhere/else"),
        ("log", "--db", ":memory:"),
    ],
    ids=" ".join,
)
def test_misuse_is_one_line_and_exit_code_2(
    directory: Path, esper: Program, arguments: tuple[str, ...]
) -> None:
    answer = esper(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: ")
    assert answer.err.count("\n") == 1


def test_an_unknown_command_is_answered_with_those_there_are(directory: Path, esper: Program) -> None:
    assert "there are: log, show, models" in esper("bisect").err


def test_alone_it_shows_its_help_and_asks_for_a_command(esper: Program) -> None:
    answer = esper()
    assert (answer.code, "verify" in answer.err) == (2, True)


@pytest.mark.parametrize("command", ["log", "verify", "rollback"])
def test_help_fits_the_terminal(esper: Program, command: str) -> None:
    answer = esper(command, "--help")
    assert answer.code == 0
    assert max(map(len, answer.out.splitlines())) <= 80


def test_shared_options_stand_before_or_behind_the_command(directory: Path, esper: Program) -> None:
    before = esper("--db", "runs.db", "--model", "digits", "--json", "models").out
    assert before == esper("models", "--db", "runs.db", "--model", "digits", "--json").out


def test_the_log_can_be_named_by_the_environment(
    recorded_once: Path, empty_directory: Path, esper: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPER_ES_DB", str(recorded_once / "runs.db"))
    assert esper("models", "--json").json["models"][0]["version"] == ROLLBACK


def test_the_vault_can_be_named_by_the_environment(
    directory: Path, esper: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / "runs.vault").rename(directory / "tensors")
    assert esper("replay", "--json").json["exactness"] == "structural"
    monkeypatch.setenv("ESPER_ES_VAULT", "tensors")
    assert esper("replay", "--json").json["exactness"] == "exact"


def test_without_any_log_here_one_has_to_be_named(empty_directory: Path, esper: Program) -> None:
    answer = esper("log")
    assert (answer.code, "--db" in answer.err) == (2, True)


def test_with_several_logs_here_one_has_to_be_named(directory: Path, esper: Program) -> None:
    (directory / "other.db").write_bytes(b"")
    answer = esper("log")
    assert (answer.code, "other.db, runs.db" in answer.err) == (2, True)


def test_a_database_of_something_else_is_no_log(directory: Path, esper: Program) -> None:
    (directory / "other.db").write_bytes(b"")
    answer = esper("log", "--db", "other.db")
    assert (answer.code, "holds no log" in answer.err) == (2, True)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("no_color", "colored"), [(False, True), (True, False)])
def test_colours_are_for_terminals_that_want_them(
    monkeypatch: pytest.MonkeyPatch, no_color: bool, colored: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    show(Page({}, [words("verified", "green")]), as_json=False, no_color=no_color)
    assert ("\x1b[" in terminal.getvalue()) is colored


def test_the_program_runs_as_a_process_and_answers_in_json(recorded_once: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "esper_es.cli", "log", "--json", "--db", str(recorded_once / "runs.db")],
        capture_output=True,
        check=True,
    )
    assert len(orjson.loads(done.stdout)["facts"]) == ROLLBACK
    assert done.stderr == b""


def test_a_person_at_a_terminal_is_asked_before_a_rollback(tmp_path: Path) -> None:
    record_digits(tmp_path)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "esper_es.cli", "rollback", "--to", "5"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    os.write(ours, b"n\n")
    out, err = process.communicate(timeout=120)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == 1
    assert b"Go back to version 5?" in err
    assert b"nothing was recorded" in err
    assert b"\x1b" not in out
