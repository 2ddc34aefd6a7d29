"""``verify``: an intact history is told from one that is not."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import orjson
import pytest
import torch
from program_runs import Answer, Program
from recorded_history import record_pair
from torch import nn

from esper_es import Engine, blueprint
from esper_es.ledger.chain import link_hash


def kinds(answer: Answer) -> set[str]:
    """Kinds of everything that was found."""
    checks = answer.json["checks"]
    assert isinstance(checks, list)
    return {finding["kind"] for check in checks for finding in check["findings"]}


def alter(database: Path, *statements: str) -> None:
    """Change a database past the triggers that forbid it, which are there again afterwards."""
    with without_triggers(database) as connection:
        for statement in statements:
            connection.execute(statement)


@contextmanager
def without_triggers(database: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(database)) as connection, connection:
        triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        yield connection
        for _, declaration in triggers:
            connection.execute(declaration)


def packs(directory: Path) -> list[Path]:
    """Return the packs, the largest first: captures hold more than example inputs."""
    found = (directory / "runs.vault" / "packs").glob("*.pack")
    return sorted(found, key=lambda pack: pack.stat().st_size, reverse=True)


def flip(file: Path, offset: int) -> None:
    content = bytearray(file.read_bytes())
    content[offset] ^= 0x01
    file.write_bytes(content)


def test_an_intact_history_is_verified(directory: Path, esper: Program) -> None:
    answer = esper("verify")
    assert answer.code == 0
    assert answer.out.endswith("\nverified\n")


def test_every_model_of_a_log_is_verified(empty_directory: Path, esper: Program) -> None:
    record_pair(empty_directory)
    answer = esper("verify", "--json")
    assert answer.code == 0
    assert "4 facts of 2 models" in answer.out


@pytest.mark.parametrize(
    ("statement", "kind", "check"),
    [
        ("UPDATE facts SET body = replace(body, 'alice', 'mallo') WHERE version = 6", "altered", "chain"),
        ("UPDATE facts SET at = '2020-01-01T00:00:00.000000+00:00' WHERE version = 3", "altered", "chain"),
        ("DELETE FROM facts WHERE version = 7", "removed", "chain"),
        ("DELETE FROM facts WHERE version = 18", "removed", "chain"),
        ("DELETE FROM facts WHERE version = 7", "unreadable_fact", "facts"),
        ("UPDATE facts SET name = 'surgery.magic' WHERE version = 6", "unreadable_fact", "facts"),
        ("UPDATE facts SET body = x'7b7d' WHERE version = 6", "unreadable_fact", "facts"),
        ("UPDATE facts SET model_id = 'nobody' WHERE version = 6", "unreadable_fact", "facts"),
        ("UPDATE layers SET kind = 'conv2d' WHERE path = '0'", "table_differs", "tables"),
        ("DELETE FROM captures WHERE version = 2", "table_differs", "tables"),
        ("UPDATE layers SET kind = CAST(x'ff41' AS TEXT) WHERE path = '0'", "damaged_database", "database"),
        ("UPDATE facts SET name = CAST(x'ff41' AS TEXT) WHERE version = 6", "damaged_database", "database"),
        ("UPDATE facts SET model_id = x'ff41' WHERE version = 6", "unreadable_fact", "facts"),
        ("UPDATE heads SET model_id = x'ff41'", "damaged_database", "database"),
        ("UPDATE rollbacks SET matched = 'words'", "table_differs", "tables"),
        ("UPDATE models SET constraints = 'words'", "table_differs", "tables"),
        ("DROP TABLE layers", "schema_differs", "schema"),
        ("ALTER TABLE seeds RENAME COLUMN kernel TO nucleus", "schema_differs", "schema"),
    ],
)
def test_what_was_altered_in_the_database_is_found(
    directory: Path, esper: Program, statement: str, kind: str, check: str
) -> None:
    alter(directory / "runs.db", "PRAGMA foreign_keys = OFF", statement)
    answer = esper("verify", "--json")
    assert answer.code == 3
    found = {(c["name"], f["kind"]) for c in answer.json["checks"] for f in c["findings"]}
    assert (check, kind) in found


def test_a_log_without_its_triggers_is_not_intact_though_nothing_was_altered(
    directory: Path, esper: Program
) -> None:
    with closing(sqlite3.connect("runs.db")) as connection, connection:
        connection.execute("DROP TRIGGER facts_refuse_delete")
    answer = esper("verify")
    assert answer.code == 3
    assert "schema_differs  facts\n  the trigger facts_refuse_delete is missing\n" in answer.out


def test_an_added_index_is_a_remark_only(directory: Path, esper: Program) -> None:
    with closing(sqlite3.connect("runs.db")) as connection, connection:
        connection.execute("CREATE INDEX mine ON facts (at)")
    answer = esper("verify", "--json")
    assert (answer.code, kinds(answer)) == (1, {"schema_differs"})


def test_a_finding_names_model_and_version(directory: Path, esper: Program) -> None:
    alter(directory / "runs.db", "UPDATE facts SET body = replace(body, 'alice', 'mallo') WHERE version = 6")
    answer = esper("verify")
    assert "altered  digits 6\n" in answer.out
    assert answer.out.splitlines()[-1].startswith("NOT INTACT: ")


def test_a_flipped_bit_in_a_pack_is_found_in_the_vault_and_in_the_captures(
    directory: Path, esper: Program
) -> None:
    flip(packs(directory)[0], 3)
    answer = esper("verify", "--json")
    assert answer.code == 3
    assert {"damaged_tensor", "damaged_blob"} <= kinds(answer)


def test_a_lost_pack_leaves_captures_without_tensors(directory: Path, esper: Program) -> None:
    packs(directory)[0].unlink()
    answer = esper("verify", "--json")
    assert answer.code == 3
    assert {"missing_tensor", "vanished_pack"} <= kinds(answer)


def test_what_many_captures_lack_is_said_once(directory: Path, esper: Program) -> None:
    packs(directory)[0].unlink()
    checks = {check["name"]: check for check in esper("verify", "--json").json["checks"]}
    messages = [finding["message"] for finding in checks["captures"]["findings"]]
    assert len(messages) == len(set(messages))


def test_a_lost_vault_is_found(directory: Path, esper: Program) -> None:
    shutil.rmtree(directory / "runs.vault")
    answer = esper("verify", "--json")
    assert (answer.code, kinds(answer)) == (3, {"missing_vault"})


def test_the_log_alone_can_be_verified(directory: Path, esper: Program) -> None:
    shutil.rmtree(directory / "runs.vault")
    assert esper("verify", "--log-only").code == 0


def test_a_capture_of_another_model_than_recorded_is_found(directory: Path, esper: Program) -> None:
    rewrite(directory / "runs.db", 2, lambda fact: fact.update(model_fingerprint=f"sha256:{'0' * 64}"))
    answer = esper("verify", "--json")
    assert answer.code == 3
    assert "damaged_tensor" in kinds(answer)


def test_a_stray_file_is_a_remark_only(directory: Path, esper: Program) -> None:
    (directory / "runs.vault" / "packs" / "notes.txt").write_text("mine")
    answer = esper("verify", "--json")
    assert (answer.code, kinds(answer)) == (1, {"foreign_file"})


def test_a_damaged_page_of_the_database_is_found(directory: Path, esper: Program) -> None:
    database = directory / "runs.db"
    content = bytearray(database.read_bytes())
    for page in range(8, len(content) // 4096, 5):
        content[page * 4096 : page * 4096 + 600] = bytes(600)
    database.write_bytes(content)
    answer = esper("verify", "--json")
    assert answer.code == 3
    assert "damaged_database" in kinds(answer)


def test_a_damaged_index_that_no_check_reads_is_found(directory: Path, esper: Program) -> None:
    database = directory / "runs.db"
    with sqlite3.connect(database) as connection:
        query = (
            "SELECT rootpage FROM sqlite_master WHERE type = 'index' AND sql LIKE '%history%(decision_id)%'"
        )
        (page,) = connection.execute(query).fetchone()
        (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    content = bytearray(database.read_bytes())
    content[page * page_size - 64 : page * page_size] = bytes(64)
    database.write_bytes(content)
    answer = esper("verify", "--json")
    assert (answer.code, kinds(answer)) == (3, {"damaged_database"})


def test_a_file_that_is_no_database_any_more_is_found(directory: Path, esper: Program) -> None:
    (directory / "runs.db").write_bytes(b"overwritten" * 1000)
    answer = esper("verify", "--json")
    assert (answer.code, kinds(answer)) == (3, {"damaged_database"})


def test_a_log_that_is_not_there_is_misuse(empty_directory: Path, esper: Program) -> None:
    answer = esper("verify", "--db", "runs.db")
    assert (answer.code, answer.out) == (2, "")


def rewrite(database: Path, version: int, change: Callable[[dict[str, object]], None]) -> None:
    """Rewrite history as the owner of the database can: a fact is changed and all later hashes made anew."""
    with without_triggers(database) as connection:
        rows = connection.execute(
            "SELECT sequence, model_id, version, name, schema, at, body, previous_hash FROM facts "
            "WHERE version >= ? ORDER BY version",
            (version,),
        ).fetchall()
        previous = rows[0][-1]
        for sequence, model, number, name, schema, at, body, _ in rows:
            if number == version:
                document = orjson.loads(body)
                change(document["fact"])
                body = orjson.dumps(document)
            link = link_hash(previous, model, number, f"{name}/{schema}", at, body)
            connection.execute(
                "UPDATE facts SET body = ?, previous_hash = ?, hash = ? WHERE sequence = ?",
                (body, previous, link, sequence),
            )
            connection.execute("UPDATE heads SET hash = ? WHERE model_id = ?", (link, model))
            previous = link


def test_exported_heads_prove_that_history_was_rewritten(directory: Path, esper: Program) -> None:
    assert esper("verify", "--export-heads", "heads.json").code == 0
    rewrite(directory / "runs.db", 14, lambda fact: fact.update(reason="all was well"))
    assert "head_mismatch" not in kinds(esper("verify", "--log-only", "--json"))
    answer = esper("verify", "--log-only", "--heads", "heads.json", "--json")
    assert answer.code == 3
    assert "head_mismatch" in kinds(answer)


def test_a_log_that_grew_still_fits_the_exported_heads(directory: Path, esper: Program) -> None:
    esper("verify", "--export-heads", "heads.json")
    esper("rollback", "--to", "5", "--yes")
    assert esper("verify", "--heads", "heads.json").code == 0


def test_heads_of_a_broken_history_are_not_exported(directory: Path, esper: Program) -> None:
    alter(directory / "runs.db", "DELETE FROM facts WHERE version = 7")
    assert esper("verify", "--export-heads", "heads.json").code == 3
    assert not (directory / "heads.json").exists()


def test_exported_heads_are_not_overwritten_unasked(directory: Path, esper: Program) -> None:
    (directory / "heads.json").write_text("evidence")
    assert esper("verify", "--export-heads", "heads.json").code == 2
    assert (directory / "heads.json").read_text() == "evidence"
    assert esper("verify", "--export-heads", "heads.json", "--yes").code == 0


@pytest.mark.parametrize("content", [None, "not JSON", "{}"])
def test_heads_that_cannot_be_read_are_misuse(directory: Path, esper: Program, content: str | None) -> None:
    if content is not None:
        (directory / "heads.json").write_text(content)
    answer = esper("verify", "--heads", "heads.json")
    assert (answer.code, answer.out) == (2, "")


def test_a_writer_at_work_does_no_harm(directory: Path, esper: Program) -> None:
    with Engine("sqlite:///runs.db"):
        assert esper("verify").code == 0


class Kept(nn.Module):
    """Computes its positions when it first runs, and keeps them outside the state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.register_buffer("places", torch.zeros(1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.places = torch.arange(float(x.shape[1]))
        y: torch.Tensor = self.layer(x + self.places[:, None])
        return y


@pytest.fixture
def kept(empty_directory: Path) -> None:
    """A log of such a model, captured after it ran."""
    blueprint("tests/cli/kept")(Kept)
    model, x = Kept(), torch.randn(2, 3, 4)
    with Engine("sqlite:///runs.db", vault="runs.vault") as engine:
        run = engine.attach(model, "model", example_inputs=(x,), blueprint="tests/cli/kept")
        model(x)
        run.capture()


@pytest.mark.parametrize("command", ["verify", "replay"])
def test_what_a_forward_pass_kept_is_no_other_architecture(command: str, kept: None, esper: Program) -> None:
    answer = esper(command)
    assert answer.code == 0, answer.out
