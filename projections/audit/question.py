"""What a question is: its text, its parameters and the SQL that answers it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from attrs import field, frozen

from esper_es.domain.errors import UsageError
from esper_es.domain.whole_numbers import whole


@frozen
class Parameter:
    """A named parameter of a question.

    Attributes:
        name: under which it is given, and stands in the SQL as ``:name``.
        meaning: what it means; for a person.
        read: turns the value given into the one that goes into the SQL, or raises ValueError.
        required: whether the question cannot be asked without it.
    """

    name: str
    meaning: str
    read: Callable[[Any], Any]
    required: bool = False


@frozen(kw_only=True)
class Question:
    """A question that the audit tables answer.

    Attributes:
        number: in the list of questions that auditors ask.
        name: short, for the command line.
        text: the question.
        parameters: what it needs; the model's name always.
        columns: headings of the answer.
        sql: one statement with ``:name`` for each parameter; the same for SQLite and PostgreSQL. Optional
            parameters that are not given are NULL in it.
    """

    number: int
    name: str
    text: str
    parameters: tuple[Parameter, ...]
    columns: tuple[str, ...]
    sql: str

    def values(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of all parameters as they go into the SQL.

        Raises:
            UsageError: for a parameter that is missing, unknown, or of the wrong kind.
        """
        known = {parameter.name: parameter for parameter in self.parameters}
        given = {name: value for name, value in given.items() if value is not None}
        missing = [name for name, p in known.items() if p.required and name not in given]
        if missing or (given.keys() - known.keys()):
            raise UsageError(self._wrong_parameters(missing, sorted(given.keys() - known.keys())))
        return {name: self._read(p, given[name]) if name in given else None for name, p in known.items()}

    def _wrong_parameters(self, missing: list[str], unknown: list[str]) -> str:
        takes = ", ".join(f"{p.name} ({p.meaning})" for p in self.parameters)
        wrong = [f"needs {', '.join(missing)}"] * bool(missing) + [f"takes no {', '.join(unknown)}"] * bool(
            unknown
        )
        return f"question {self.name!r} {' and '.join(wrong)}; its parameters: {takes}"

    def _read(self, parameter: Parameter, value: Any) -> Any:
        try:
            return parameter.read(value)
        except ValueError as error:
            raise UsageError(f"question {self.name!r}: {parameter.name} {error}, got {value!r}") from None


@frozen
class Answer:
    """What the tables say.

    Attributes:
        question: what was asked.
        columns: headings.
        rows: text, numbers and None; the same on every database.
        sql: the statement that gave them.
        parameters: its parameters, by name.
    """

    question: Question
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    sql: str
    parameters: Mapping[str, Any] = field(factory=dict)


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text")
    return value


def _version(value: Any) -> int:
    value = whole(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("must be a version: an integer from 1 on")
    return value


def _count(value: Any) -> int:
    value = whole(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("must be an integer from 0 on")
    return value


def _moment(value: Any) -> str:
    """Return a moment as the tables write it; one without a time zone is UTC."""
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return aware.astimezone(UTC).isoformat(timespec="microseconds")
    except (TypeError, ValueError, OverflowError):
        raise ValueError("must be a date or time in ISO 8601, e.g. 2026-11-23T10:00:00+00:00") from None


MODEL: Final = Parameter("model", "name of the model", _name, required=True)
VERSION: Final = Parameter("version", "version of the model; the newest by default", _version)
AT: Final = Parameter(
    "at", "the newest version at this UTC time, ISO 8601 with microseconds and +00:00", _moment
)
EPOCH: Final = Parameter("epoch", "the newest version at this epoch", _count)
STEP: Final = Parameter("step", "the newest version at this optimizer step", _count)
PATH: Final = Parameter("path", "only modules at this dotted path and below it", _name)
FACT: Final = Parameter("fact", "version that the fact led to", _version, required=True)
SURGERY: Final = Parameter("version", "only the surgery of this version", _version)
