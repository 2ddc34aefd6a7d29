"""``tree``, ``diff``, ``blame``: what models are made of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from program_runs import Program
from recorded_history import ADDING, GERMINATION, ROLLBACK, WIDENING, perceptron

from esper_es import Engine
from esper_es.cli.architecture_diff import difference
from esper_es.projections.live.describe import describe


def test_tree_shows_modules_with_kinds_and_shapes(directory: Path, esper: Program) -> None:
    assert esper("tree", "1").out == (
        "digits 1  sequential  67 parameters, 268 bytes\n"
        "├── 0  linear  weight 8x4, bias 8\n"
        "├── 1  relu\n"
        "└── 2  linear  weight 3x8, bias 3\n"
    )


def test_tree_shows_the_newest_version_by_default(directory: Path, esper: Program) -> None:
    document = esper("tree", "--json").json
    assert document["version"] == ROLLBACK
    assert "extra" in document["modules"]


def test_diff_tells_what_came_and_what_changed(directory: Path, esper: Program) -> None:
    answer = esper("diff", "1", str(ADDING))
    assert answer.code == 0
    assert answer.out == (
        "digits 1 -> 10\n"
        "+ extra  linear  weight 3x3, bias 3\n"
        "~ 0\n"
        "    out_features 8 -> 12\n"
        "    weight 8x4 -> 12x4\n"
        "    bias 8 -> 12\n"
        "~ 2\n"
        "    in_features 8 -> 12\n"
        "    weight 3x8 -> 3x12\n"
        "parameters  67 -> 111 (+44)\n"
    )


def test_diff_backwards_tells_what_went(directory: Path, esper: Program) -> None:
    document = esper("diff", str(ADDING), "1", "--json").json
    assert list(document["removed"]) == ["extra"]
    assert document["parameters"] == [111, 67]


def test_equal_architectures_have_no_difference() -> None:
    assert not difference(describe(perceptron()), describe(perceptron()))


def test_diff_shows_added_connections(empty_directory: Path, esper: Program) -> None:
    with Engine("sqlite:///runs.db") as engine:
        run = engine.attach(perceptron(), name="m", example_inputs=(torch.randn(4, 4),))
        assert run.surgeon.add_skip_connection(from_layer="0", to_layer="2").success
        newest = run.version
    (connected,) = esper("diff", "1", str(newest), "--json").json["connected"]
    assert connected.startswith("0 joins 2 through ")


def test_blame_names_the_facts_that_added_and_changed_a_module(directory: Path, esper: Program) -> None:
    modules = {m["path"]: m for m in esper("blame", "--json").json["modules"]}
    assert (modules["0"]["added_by"], modules["0"]["changed_by"]) == (1, WIDENING)
    assert (modules["1"]["added_by"], modules["1"]["changed_by"]) == (1, 1)
    assert (modules["extra"]["added_by"], modules["extra"]["changed_by"]) == (ADDING, ADDING)


def test_blame_agrees_with_the_audit_tables(directory: Path, esper: Program) -> None:
    from_facts = {
        (m["path"], m["added_by"]) for m in esper("blame", "--json").json["modules"] if m["added_by"] != 1
    }
    answer = esper("audit", "blame", "--json").json
    path, added = (answer["columns"].index(column) for column in ("path", "added by version"))
    assert {(row[path], row[added]) for row in answer["rows"]} == from_facts


def test_blame_keeps_to_the_path_given(directory: Path, esper: Program) -> None:
    modules = esper("blame", "s1.kernel", "--json").json["modules"]
    assert {m["added_by"] for m in modules} == {GERMINATION}
    assert modules[0]["path"] == "s1.kernel"


def test_an_unknown_path_is_answered_with_those_there_are(directory: Path, esper: Program) -> None:
    answer = esper("blame", "encoder")
    assert answer.code == 2
    assert "it has: 0, 1, 2, extra, s1" in answer.err


def test_what_a_rollback_brings_back_goes_back_to_whom_it_did(directory: Path, esper: Program) -> None:
    before = esper("blame", "--json").json["modules"]
    assert esper("rollback", "--to", "5", "--yes").code == 0
    assert esper("rollback", "--to", str(ROLLBACK), "--yes").code == 0
    assert esper("blame", "--json").json["modules"] == before


@pytest.mark.parametrize("arguments", [("tree", "19"), ("diff", "1", "19"), ("diff", "0", "1")])
def test_unknown_versions_are_misuse(directory: Path, esper: Program, arguments: tuple[str, ...]) -> None:
    answer = esper(*arguments)
    assert answer.code == 2
    assert "it has 1 to 18" in answer.err
