"""``audit``: the questions that the audit tables answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.text import Text

from esper_es.cli.commands import command
from esper_es.cli.layout import Hanging, Rows, count, joined, pairs, words
from esper_es.cli.options import Shared
from esper_es.cli.output import Page
from esper_es.cli.reading import reading
from esper_es.domain.canonical import Json
from esper_es.domain.errors import UsageError
from esper_es.projections.audit import Answer, Audit, Question


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    command(app, "audit")(audit)


def audit(
    shared: Shared,
    question: Annotated[
        str | None, typer.Argument(metavar="[QUESTION]", help="Its name; without one, all are listed.")
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", metavar="NAME=VALUE", help="A parameter of the question; repeatable."),
    ] = None,
    sql: Annotated[bool, typer.Option("--sql", help="Show the SQL too.")] = False,
) -> Page:
    """Answer an auditor's question from SQL, or list the questions."""
    with reading(shared.location()) as source:
        auditor = Audit(source.database)
        questions = {known.name: known for known in auditor.questions()}
        if question is None:
            return _list_page(list(questions.values()), sql=sql)
        asked = questions.get(question)
        if asked is None:
            raise UsageError(f"there is no question {question!r}; there are: {', '.join(questions)}")
        given = {"model": source.model(shared.model)[0]} | _parameters(asked, param or ())
        answer = auditor.ask(question, **given)
    return Page(_answer_document(answer), _answer_lines(answer, sql=sql))


def _parameters(question: Question, given: Iterable[str]) -> dict[str, Any]:
    readers = {parameter.name: parameter.read for parameter in question.parameters}
    values: dict[str, Any] = {}
    for assignment in given:
        name, equals, text = assignment.partition("=")
        if not equals or not name:
            raise UsageError(f"--param takes NAME=VALUE, e.g. version=7, not {assignment!r}")
        values[name] = _value(text, readers.get(name, str))
    return values


def _value(text: str, read: Any) -> str | int:
    """Return the value as text, or as the integer that the parameter wants."""
    try:
        read(text)
    except ValueError:
        return int(text) if text.isdecimal() else text
    return text


def _list_page(questions: Sequence[Question], *, sql: bool) -> Page:
    document = {"questions": [_question_document(question) for question in questions]}
    return Page(document, _question_lines(questions, sql=sql))


def _question_document(question: Question) -> dict[str, Json]:
    return {
        "number": question.number,
        "name": question.name,
        "text": question.text,
        "parameters": [
            {"name": p.name, "meaning": p.meaning, "required": p.required} for p in question.parameters
        ],
        "columns": list(question.columns),
        "sql": question.sql,
    }


def _question_lines(questions: Sequence[Question], *, sql: bool) -> Iterator[RenderableType]:
    for question in questions:
        head = joined(words(f"{question.number:>2}  ", "yellow"), words(question.name, "bold cyan"))
        yield Hanging(head)
        yield Hanging(Text("    "), words(question.text))
        names = [f"{p.name}" if p.required else f"[{p.name}]" for p in question.parameters]
        yield Hanging(Text("    "), words(f"parameters: {', '.join(names)}", "dim"))
        if sql:
            yield from _sql_lines(question.sql)


def _answer_document(answer: Answer) -> dict[str, Json]:
    return {
        "question": answer.question.name,
        "number": answer.question.number,
        "text": answer.question.text,
        "parameters": dict(answer.parameters),
        "columns": list(answer.columns),
        "rows": [list(row) for row in answer.rows],
        "sql": answer.sql,
    }


def _answer_lines(answer: Answer, *, sql: bool) -> Iterator[RenderableType]:
    yield Hanging(words(answer.question.text, "bold"))
    yield Rows(answer.columns, answer.rows) if answer.rows else words("no rows", "dim")
    yield words(count(len(answer.rows), "row"), "dim")
    if sql:
        yield Text()
        yield from pairs([(f":{name}", str(value)) for name, value in answer.parameters.items()])
        yield from _sql_lines(answer.sql)


def _sql_lines(sql: str) -> Iterator[RenderableType]:
    for line in sql.splitlines():
        body = line.lstrip()
        yield Hanging(Text("    " + " " * (len(line) - len(body))), words(body))
