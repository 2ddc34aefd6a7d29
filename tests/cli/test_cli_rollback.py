"""``rollback``: what would happen, and that the next attach follows what was recorded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from program_runs import Program
from recorded_history import (
    BEFORE_ADDING,
    BEFORE_WIDENING,
    ROLLBACK,
    WIDENING,
    optimizer_of,
    perceptron,
    train,
)

from esper_es import ConflictError, Engine


def newest(esper: Program) -> int:
    (model,) = esper("models", "--json").json["models"]
    version = model["version"]
    assert isinstance(version, int)
    return version


def test_the_next_attach_restores_the_whole_state(directory: Path, esper: Program) -> None:
    answer = esper("rollback", "--to", str(BEFORE_WIDENING), "--yes", "--json")
    assert answer.json["recorded"] == ROLLBACK + 1
    model = perceptron()
    with Engine("sqlite:///runs.db") as engine:
        run = engine.attach(
            model, name="digits", example_inputs=(torch.randn(4, 4),), optimizer=optimizer_of(model)
        )
        assert run.state_fingerprint == answer.json["fingerprint"]
        assert run.fingerprint == answer.json["model_fingerprint"]


def test_it_can_be_rolled_back_too(directory: Path, esper: Program) -> None:
    esper("rollback", "--to", str(BEFORE_WIDENING), "--yes")
    again = esper("rollback", "--to", str(BEFORE_ADDING), "--yes", "--json")
    assert (again.code, again.json["recorded"]) == (0, ROLLBACK + 2)


def test_who_and_why_are_recorded(directory: Path, esper: Program) -> None:
    esper("rollback", "--to", "5", "--yes", "--actor", "bob", "--reason", "worse on the hold-out set")
    shown = esper("show", str(ROLLBACK + 1), "--json").json
    assert shown["cause"]["actor"] == "bob"
    assert shown["fact"]["reason"] == "worse on the hold-out set"


def test_what_it_records_is_verified_and_audited(directory: Path, esper: Program) -> None:
    esper("rollback", "--to", "5", "--yes")
    assert esper("verify").code == 0
    assert len(esper("audit", "rollbacks", "--json").json["rows"]) == 2


def test_the_recorded_version_replays_exactly(directory: Path, esper: Program) -> None:
    esper("rollback", "--to", "5", "--yes")
    answer = esper("replay", "--check", "--json")
    assert (answer.code, answer.json["exactness"]) == (0, "exact")


def test_a_dry_run_says_what_would_happen_and_records_nothing(directory: Path, esper: Program) -> None:
    answer = esper("rollback", "--to", "5", "--dry-run")
    assert answer.code == 0
    for expected in (
        "the capture of version 5",
        "1 epoch and 2 steps of training",
        "6  widened 0 from 8 to 12",
        "parameters  1,347 -> 67 (-1,280)",
        "nothing was recorded",
    ):
        assert expected in answer.out
    assert newest(esper) == ROLLBACK


def test_without_a_yes_nothing_is_recorded(directory: Path, esper: Program) -> None:
    answer = esper("rollback", "--to", "5")
    assert (answer.code, "--yes" in answer.err) == (2, True)
    assert newest(esper) == ROLLBACK


@pytest.mark.parametrize(
    ("version", "why"),
    [
        (WIDENING, "Go back to 5 or 8 instead"),
        (7, "nearest versions that have one: 6 and 8"),
        (ROLLBACK, "is the newest"),
        (99, "the log has 1 to 18"),
    ],
)
def test_a_version_that_cannot_be_restored_is_refused(
    directory: Path, esper: Program, version: int, why: str
) -> None:
    answer = esper("rollback", "--to", str(version), "--yes")
    assert (answer.code, why in answer.err) == (1, True)
    assert newest(esper) == ROLLBACK


def test_a_damaged_capture_is_not_gone_back_to(directory: Path, esper: Program) -> None:
    for pack in (directory / "runs.vault" / "packs").glob("*.pack"):
        content = bytearray(pack.read_bytes())
        content[:64] = bytes(byte ^ 0xFF for byte in content[:64])
        pack.write_bytes(content)
    assert esper("rollback", "--to", "5", "--yes").code == 3
    assert newest(esper) == ROLLBACK


def test_without_its_tensors_a_version_is_not_gone_back_to(directory: Path, esper: Program) -> None:
    assert esper("rollback", "--to", "5", "--yes", "--vault", "elsewhere").code == 2
    assert newest(esper) == ROLLBACK


def test_a_process_that_has_the_model_attached_is_refused_its_next_change(
    directory: Path, esper: Program
) -> None:
    model = perceptron()
    optimizer = optimizer_of(model)
    with Engine("sqlite:///runs.db") as engine:
        run = engine.attach(model, name="digits", example_inputs=(torch.randn(4, 4),), optimizer=optimizer)
        assert esper("rollback", "--to", "5", "--yes").code == 0
        train(run, optimizer)
        with pytest.raises(ConflictError):
            run.capture()
