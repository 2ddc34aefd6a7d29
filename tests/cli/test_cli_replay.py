"""``replay``: how exact a version comes back, and whether it is what was recorded."""

from __future__ import annotations

import importlib
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import torch
from program_runs import Program
from recorded_history import BEFORE_WIDENING, ROLLBACK, TRAINED_ON, WIDENING

from esper_es import Engine, blueprint, fingerprint
from esper_es.ledger.chain import link_hash
from esper_es.projections.live.blueprints import unregister

MODELS = """
import torch
from torch import nn
import esper_es

class Twice(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, x):
        return self.layer(self.layer(x))

@esper_es.blueprint("twice")
def build(width):
    return Twice(width)
"""


@pytest.mark.parametrize("version", [1, 4, BEFORE_WIDENING, WIDENING, ROLLBACK])
def test_a_captured_version_comes_back_exactly(directory: Path, esper: Program, version: int) -> None:
    answer = esper("replay", "--to", str(version), "--check", "--json")
    assert answer.code == 0
    assert answer.json["exactness"] == "exact"
    assert answer.json["check"]["matches"] is True


def test_the_fingerprint_checked_is_that_of_the_module(directory: Path, esper: Program) -> None:
    with Engine("sqlite:///runs.db") as engine:
        expected = fingerprint(engine.replay("digits", ROLLBACK))
    assert esper("replay", "--check", "--json").json["check"]["model"]["found"] == expected


def test_a_version_trained_on_without_capture_is_stale(directory: Path, esper: Program) -> None:
    answer = esper("replay", "--to", "7", "--check", "--json")
    assert (answer.code, answer.json["exactness"]) == (0, "stale")


def test_a_version_captured_afterwards_is_exact(directory: Path, esper: Program) -> None:
    document = esper("replay", "--to", str(TRAINED_ON), "--check", "--json").json
    assert (document["exactness"], document["capture"]) == ("exact", TRAINED_ON + 1)


def test_without_vault_the_structure_comes_back_and_the_check_is_open(
    directory: Path, esper: Program
) -> None:
    answer = esper("replay", "--vault", "elsewhere", "--check")
    assert answer.code == 1
    assert "structural replay" in answer.out
    assert "there is no vault at elsewhere" in answer.out


def test_no_vault_is_created_by_looking_for_it(directory: Path, esper: Program) -> None:
    esper("replay", "--vault", "elsewhere")
    assert not (directory / "elsewhere").exists()


def test_damaged_tensors_are_an_integrity_failure(directory: Path, esper: Program) -> None:
    for pack in (directory / "runs.vault" / "packs").glob("*.pack"):
        content = bytearray(pack.read_bytes())
        content[:64] = bytes(byte ^ 0xFF for byte in content[:64])
        pack.write_bytes(content)
    assert esper("replay", "--check").code == 3


def test_a_recorded_fingerprint_that_differs_is_an_integrity_failure(directory: Path, esper: Program) -> None:
    _forge_fingerprint(directory / "runs.db")
    answer = esper("replay", "--to", "1", "--check")
    assert answer.code == 3
    assert "differ from what version 2 recorded" in answer.out


def _forge_fingerprint(database: Path) -> None:
    """Change the fingerprint that the capture at birth recorded, as the owner of the database can."""
    with sqlite3.connect(database) as connection:
        connection.execute("DROP TRIGGER facts_refuse_update")
        columns = "version, previous_hash, model_id, name, schema, at, body"
        rows = connection.execute(
            f"SELECT {columns} FROM facts WHERE version >= 2 ORDER BY version"
        ).fetchall()
        link = rows[0][1]
        for version, _, model, name, schema, at, body in rows:
            if version == 2:
                document = orjson.loads(body)
                document["fact"]["model_fingerprint"] = f"sha256:{'0' * 64}"
                body = orjson.dumps(document)
            previous, link = link, link_hash(link, model, version, f"{name}/{schema}", at, body)
            connection.execute(
                "UPDATE facts SET body = ?, previous_hash = ?, hash = ? WHERE version = ?",
                (body, previous, link, version),
            )
    connection.close()


def test_an_unknown_device_is_misuse(directory: Path, esper: Program) -> None:
    answer = esper("replay", "--device", "abacus")
    assert answer.code == 2
    assert answer.err.startswith("error: --device abacus: ")


@pytest.fixture
def with_blueprint(empty_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A log of a model that a blueprint in ``my_models.py`` builds; it is not registered in this process."""
    (empty_directory / "my_models.py").write_text(MODELS)
    monkeypatch.setattr(sys, "path", [str(empty_directory), *sys.path])
    model = importlib.import_module("my_models").build(4)
    with Engine("sqlite:///runs.db") as engine:
        example, arguments = torch.randn(2, 4), {"width": 4}
        engine.attach(model, "twice", (example,), blueprint="twice", blueprint_args=arguments)
    _forget_models()
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(empty_directory)])
    yield empty_directory
    _forget_models()


def _forget_models() -> None:
    unregister("twice")
    sys.modules.pop("my_models", None)


def test_a_blueprint_is_found_in_the_module_to_import(with_blueprint: Path, esper: Program) -> None:
    assert esper("replay", "--check", "--import", "my_models").code == 0


def test_without_its_blueprint_a_model_is_not_rebuilt_and_the_option_is_named(
    with_blueprint: Path, esper: Program
) -> None:
    answer = esper("replay", "--check")
    assert (answer.code, "--import MODULE" in answer.err) == (2, True)


@pytest.mark.parametrize("module", ["no_such_module", "./models.py", "a.b-c"])
def test_a_module_that_cannot_be_imported_is_misuse(directory: Path, esper: Program, module: str) -> None:
    answer = esper("replay", "--import", module)
    assert answer.code == 2
    assert answer.err.startswith("error: --import ")


def test_nothing_is_imported_unasked(directory: Path, esper: Program) -> None:
    (directory / "my_models.py").write_text("raise SystemExit('imported')")
    assert esper("replay", "--check").code == 0


def test_a_blueprint_registered_by_the_embedding_program_serves(directory: Path, esper: Program) -> None:
    shutil.rmtree(directory / "runs.vault")
    (directory / "runs.db").unlink()

    @blueprint("embedded")
    def build() -> torch.nn.Module:
        return torch.nn.Linear(4, 4)

    try:
        with Engine("sqlite:///runs.db") as engine:
            engine.attach(build(), name="m", example_inputs=(torch.randn(2, 4),), blueprint="embedded")
        assert esper("replay", "--check").code == 0
    finally:
        unregister("embedded")
