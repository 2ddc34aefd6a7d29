"""What the audit tables hold, as values to compare."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select

from esper_es.projections.audit.tables import TABLES


def contents(connection: Connection) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every audit table, in the order of the primary keys."""
    return {
        table.name: [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key))]
        for table in TABLES
    }
