"""How a question is asked, and what is said when it cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from esper_es.domain.errors import UsageError
from esper_es.ledger.database import open_database
from esper_es.projections.audit import Audit
from esper_es.projections.audit.questions import QUESTIONS

from .story import Teller


@pytest.fixture(scope="module")
def audit() -> Iterator[Audit]:
    engine = open_database(":memory:")
    Teller.registering(engine, "digits")
    yield Audit(engine)
    engine.dispose()


@pytest.mark.parametrize(
    ("question", "parameters", "message"),
    [
        ("blam", {"model": "digits"}, r"no question 'blam'; there are: architecture \(What .*; sizes \("),
        ("cause", {"model": "digits"}, r"'cause' needs fact; its parameters: model \(.*fact \("),
        ("cause", {}, r"needs model, fact"),
        ("seeds", {"model": "digits", "step": 3}, r"'seeds' takes no step; its parameters: model \("),
        ("seeds", {"model": "digit"}, r"no model 'digit'; it knows: digits"),
        ("blame", {"model": "digits", "version": 2}, r"'digits' has no version 2; it has 1 to 1"),
        ("cause", {"model": "digits", "fact": 2}, r"'digits' has no version 2; it has 1 to 1"),
        (
            "blame",
            {"model": "digits", "version": 0},
            r"version must be a version: an integer from 1 on, got 0",
        ),
        ("blame", {"model": "digits", "version": True}, r"version must be .*, got True"),
        ("architecture", {"model": "digits", "at": "noon"}, r"at must be .* ISO 8601.*, got 'noon'"),
        ("architecture", {"model": "digits", "step": -1}, r"step must be an integer from 0 on, got -1"),
        ("seeds", {"model": 7}, r"model must be text, got 7"),
    ],
)
def test_a_question_that_cannot_be_answered_says_what_there_is(
    audit: Audit, question: str, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        audit.ask(question, **parameters)


def test_a_parameter_of_none_counts_as_left_out(audit: Audit) -> None:
    assert audit.ask("blame", model="digits", version=None).parameters == {
        "model": "digits",
        "version": None,
        "path": None,
    }


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 11, 23, 10, tzinfo=UTC),
        "2026-11-23T10:00:00",
        "2026-11-23 11:00+01:00",
    ],
)
def test_moments_are_written_as_the_tables_have_them(audit: Audit, moment: object) -> None:
    answer = audit.ask("architecture", model="digits", at=moment)
    assert answer.parameters["at"] == "2026-11-23T10:00:00.000000+00:00"


def test_questions_are_listed_by_their_numbers(audit: Audit) -> None:
    numbers = [question.number for question in audit.questions()]
    assert numbers == [1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 15, 20, 21]


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_sql_names_every_parameter_of_its_question(name: str) -> None:
    question = QUESTIONS[name]
    assert [p.name for p in question.parameters if f":{p.name}" not in question.sql] == []
