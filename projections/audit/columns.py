"""Columns that the audit tables share, and their types."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    String,
    Text,
    TypeDecorator,
)
from sqlalchemy.schema import SchemaItem


class PlainText(TypeDecorator[str]):
    """Text in the order of its code points on every database.

    PostgreSQL cannot hold the character NUL; the symbol for it (U+2400) stands in its place.
    """

    impl = Text().with_variant(Text(collation="C"), "postgresql")
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: object) -> str | None:
        return None if value is None else value.replace("\0", "\N{SYMBOL FOR NULL}")


COUNT: Final = BigInteger()
MODEL_ID: Final = String(36)


def text(name: str, comment: str, *, nullable: bool = False, **options: Any) -> Column[Any]:
    return Column(name, PlainText(), nullable=nullable, comment=comment, **options)


def count(name: str, comment: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, COUNT, nullable=nullable, comment=comment)


def version(name: str, comment: str, *, nullable: bool = True) -> Column[Any]:
    return Column(name, Integer(), nullable=nullable, comment=comment)


def json(name: str, comment: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, JSON(none_as_null=True), nullable=nullable, comment=comment)


def of_fact(*further_key: Column[Any]) -> tuple[SchemaItem, ...]:
    """The key of a table whose rows belong to one fact: its model and version, and what comes further."""
    return (
        Column("model_id", MODEL_ID, primary_key=True, comment="UUID of the model"),
        Column(
            "version",
            Integer(),
            primary_key=True,
            autoincrement=False,
            comment="version of the model that the fact led to",
        ),
        *further_key,
        ForeignKeyConstraint(["model_id", "version"], ["history.model_id", "history.version"]),
    )


def over_versions(key: Column[Any], *content: Column[Any]) -> tuple[SchemaItem, ...]:
    """Columns of a table whose rows each hold over a stretch of versions.

    The rows that held at version V are those with ``valid_from_version <= V`` and ``valid_to_version`` either
    NULL or greater than V.
    """
    return (
        Column(
            "model_id", MODEL_ID, ForeignKey("models.model_id"), primary_key=True, comment="UUID of the model"
        ),
        key,
        Column(
            "valid_from_version",
            Integer(),
            primary_key=True,
            autoincrement=False,
            comment="first version of which the row is true",
        ),
        version("valid_to_version", "first version of which it is no longer true; NULL: it is true now"),
        *content,
        version(
            "added_by_version",
            "fact that first brought this in; a rollback that brings it back does not change it",
            nullable=False,
        ),
        version(
            "changed_by_version",
            "fact that gave it the content of this row; a rollback that brings it back does not change it",
            nullable=False,
        ),
        version("removed_by_version", "fact that took it away at the end of this row; NULL: none did"),
        Index(None, "model_id", "valid_to_version"),
    )
