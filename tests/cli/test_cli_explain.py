"""``explain``: what grows together with a layer, from the log alone."""

from __future__ import annotations

from pathlib import Path

from program_runs import Program
from recorded_history import BEFORE_WIDENING, WIDENING


def test_a_layer_is_explained_for_a_person(directory: Path, esper: Program) -> None:
    answer = esper("explain", "0", "--to", str(WIDENING))
    assert answer.code == 0
    assert "0.weight dim 0: 12 channels" in answer.out
    assert "free to grow and shrink" in answer.out


def test_a_layer_is_explained_for_a_program(directory: Path, esper: Program) -> None:
    document = esper("explain", "0", "--to", str(BEFORE_WIDENING), "--json").json
    assert (document["model"], document["version"], document["layer"]) == ("digits", BEFORE_WIDENING, "0")
    assert (document["tensor"], document["units"], document["free"]) == ("0.weight", 8, True)
    assert {member["tensor"] for member in document["members"]} == {"0.weight", "0.bias", "2.weight"}


def test_what_is_pinned_says_why(directory: Path, esper: Program) -> None:
    document = esper("explain", "2", "--to", str(WIDENING), "--json").json
    assert not document["free"]
    assert document["pins"][0]["reason"] == "model output"


def test_the_input_of_a_layer_can_be_asked_for(directory: Path, esper: Program) -> None:
    document = esper("explain", "2", "--to", str(WIDENING), "--dimension", "in", "--json").json
    assert (document["tensor"], document["dim"]) == ("2.weight", 1)


def test_an_unknown_layer_is_a_usage_error_on_one_line(directory: Path, esper: Program) -> None:
    answer = esper("explain", "nowhere")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: 'nowhere' is no layer with parameters; layers are 0, 2,")
    assert answer.err.count("\n") == 1


def test_a_layer_without_a_width_is_a_usage_error(directory: Path, esper: Program) -> None:
    answer = esper("explain", "1", "--to", str(WIDENING))
    assert (answer.code, answer.out) == (2, "")


def test_an_unknown_version_is_a_usage_error(directory: Path, esper: Program) -> None:
    assert esper("explain", "0", "--to", "999").code == 2


def test_without_the_vault_there_are_no_example_inputs(directory: Path, esper: Program) -> None:
    (directory / "runs.vault").rename(directory / "elsewhere")
    answer = esper("explain", "0")
    assert answer.code == 2
    assert "example inputs" in answer.err


def test_explaining_writes_nothing(directory: Path, esper: Program) -> None:
    before = (directory / "runs.db").read_bytes()
    esper("explain", "0")
    assert (directory / "runs.db").read_bytes() == before
