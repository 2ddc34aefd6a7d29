"""The audit tables described for a reader, from the comments of their columns."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Column, Table

from esper_es.projections.audit.tables import TABLES

_PREAMBLE = """\
# The audit tables

They live in the database of the log, beside the facts, and are brought up to date in the transaction that
appends each fact. They can be emptied and rebuilt from the log at any time. Versions are versions of the model
that the row belongs to; a version stands for the fact that led to it, and `history` has one row for each.

Tables "over versions" have a row for each stretch of versions over which it is true: what was true at version V
is what has `valid_from_version <= V` and `valid_to_version` either NULL or greater than V. What is true now
has `valid_to_version IS NULL`.
"""


def document() -> str:
    """Return all tables and columns as Markdown."""
    return "\n".join([_PREAMBLE, *(line for table in TABLES for line in _section(table))])


def _section(table: Table) -> Iterator[str]:
    yield f"## {table.name}\n"
    yield f"{_sentence(table.comment)}\n"
    yield "| column | type | key | meaning |"
    yield "|---|---|---|---|"
    for column in table.columns:
        yield f"| `{column.name}` | {_type_of(column)} | {_key_of(column)} | {_cell(column.comment)} |"
    yield ""


def _type_of(column: Column[object]) -> str:
    name = str(column.type).lower()
    return f"{name}, may be NULL" if column.nullable else name


def _key_of(column: Column[object]) -> str:
    roles = ["primary"] if column.primary_key else []
    roles += sorted(f"to `{key.column.table.name}`" for key in column.foreign_keys)
    return ", ".join(roles)


def _sentence(comment: str | None) -> str:
    described = comment or ""
    return f"{described[:1].upper()}{described[1:]}."


def _cell(comment: str | None) -> str:
    return (comment or "").replace("|", "\\|")
