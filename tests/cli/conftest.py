"""A recorded history to read, and a way to run the program on it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from program_runs import Answer, Program
from recorded_history import record_digits
from typer.testing import CliRunner, Result

from esper_es.cli.program import app


@pytest.fixture(scope="session")
def recorded_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory with ``runs.db`` and ``runs.vault``, recorded once; tests that change it copy it."""
    directory = tmp_path_factory.mktemp("recorded")
    state = torch.get_rng_state()
    record_digits(directory)
    torch.set_rng_state(state)
    return directory


@pytest.fixture
def directory(recorded_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a copy of the recorded history that a test may change."""
    copy = tmp_path / "project"
    shutil.copytree(recorded_once, copy)
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with nothing in it."""
    place = tmp_path / "empty"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def esper(monkeypatch: pytest.MonkeyPatch) -> Program:
    """Run the program in the current directory, on a terminal of 80 columns."""
    for variable in ("ESPER_ES_DB", "ESPER_ES_VAULT", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    runner = CliRunner()

    def run(*arguments: str) -> Answer:
        result: Result = runner.invoke(app, arguments)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Answer(result.exit_code, result.stdout, result.stderr)

    return run
