"""``audit``: questions, parameters, SQL."""

from __future__ import annotations

from pathlib import Path

from program_runs import Program
from recorded_history import WIDENING

from esper_es import Engine


def test_without_a_question_all_are_listed(directory: Path, esper: Program) -> None:
    with Engine("sqlite:///runs.db") as engine:
        expected = [question.name for question in engine.audit.questions()]
    assert [question["name"] for question in esper("audit", "--json").json["questions"]] == expected


def test_an_answer_is_that_of_the_library(directory: Path, esper: Program) -> None:
    with Engine("sqlite:///runs.db") as engine:
        expected = engine.audit.ask("cause", model="digits", fact=WIDENING)
    answer = esper("audit", "cause", "--param", f"fact={WIDENING}", "--json").json
    assert [tuple(row) for row in answer["rows"]] == list(expected.rows)


def test_the_sql_is_shown_when_asked_for(directory: Path, esper: Program) -> None:
    assert "SELECT" not in esper("audit", "sizes").out
    assert "SELECT" in esper("audit", "sizes", "--sql").out


def test_an_answer_too_wide_for_a_table_comes_as_records(directory: Path, esper: Program) -> None:
    assert "version    1\nfact       model.registered\n" in esper("audit", "facts").out


def test_an_unknown_question_is_answered_with_those_there_are(directory: Path, esper: Program) -> None:
    answer = esper("audit", "why")
    assert answer.code == 2
    assert "there are: architecture, facts," in answer.err


def test_a_parameter_without_value_is_misuse(directory: Path, esper: Program) -> None:
    answer = esper("audit", "facts", "--param", "version")
    assert (answer.code, "NAME=VALUE" in answer.err) == (2, True)


def test_a_parameter_that_the_question_lacks_is_misuse(directory: Path, esper: Program) -> None:
    answer = esper("audit", "facts", "--param", "epochs=3")
    assert (answer.code, "takes no epochs" in answer.err) == (2, True)


def test_a_parameter_of_the_wrong_kind_is_misuse(directory: Path, esper: Program) -> None:
    answer = esper("audit", "facts", "--param", "version=newest")
    assert (answer.code, "an integer from 1 on" in answer.err) == (2, True)
