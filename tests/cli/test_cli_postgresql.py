"""The same commands on a log in PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from program_runs import Program
from recorded_history import perceptron

from esper_es import Engine


@pytest.mark.postgresql
def test_a_log_in_postgresql_is_verified_and_rolled_back(
    postgresql_url: str, empty_directory: Path, esper: Program
) -> None:
    with Engine(postgresql_url, vault="tensors") as engine:
        run = engine.attach(perceptron(), name="m", example_inputs=(torch.randn(4, 4),))
        assert run.surgeon.modify_layer_width(layer_name="0", new_width=12).success
    place = ("--db", postgresql_url, "--vault", "tensors")
    assert esper("verify", *place).code == 0
    assert esper("rollback", "--to", "2", "--yes", *place).code == 0
    assert esper("replay", "--check", *place).code == 0
    assert esper("verify", *place).code == 0
    assert postgresql_url not in esper("log", *place).out


@pytest.mark.postgresql
@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DROP TRIGGER facts_refuse_change ON facts", "the trigger facts_refuse_change is missing"),
        ("ALTER TABLE layers DROP COLUMN kind", "the column kind is missing"),
        ("ALTER TABLE heads RENAME TO tails", "the table is missing"),
        ("ALTER TABLE layers ALTER COLUMN valid_from_version TYPE TEXT", "its type is TEXT"),
    ],
)
def test_a_schema_that_was_changed_is_not_intact(
    statement: str, words: str, postgresql_url: str, empty_directory: Path, esper: Program
) -> None:
    with Engine(postgresql_url, vault="tensors") as engine:
        engine.attach(perceptron(), name="m", example_inputs=(torch.randn(4, 4),))
        with engine.log.database.begin() as connection:
            connection.exec_driver_sql(statement)
    answer = esper("verify", "--db", postgresql_url, "--vault", "tensors")
    assert answer.code == 3
    assert words in " ".join(answer.out.split())


@pytest.mark.postgresql
def test_facts_are_read_without_a_vault(postgresql_url: str, empty_directory: Path, esper: Program) -> None:
    with Engine(postgresql_url, vault="tensors") as engine:
        engine.attach(perceptron(), name="m", example_inputs=(torch.randn(4, 4),))
    answer = esper("replay", "--db", postgresql_url)
    assert "no vault was named: use --vault DIRECTORY" in answer.out
