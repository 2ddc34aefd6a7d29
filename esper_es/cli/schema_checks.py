"""Check of the schema: that nobody took away or changed what the migrations made."""

from __future__ import annotations

from sqlalchemy import Connection

from esper_es.cli.findings import Check, Finding, Weight
from esper_es.cli.layout import count
from esper_es.ledger.deviations import OURS
from esper_es.ledger.schema_check import schema_deviations


def check_schema(connection: Connection) -> Check:
    """Compare every table, column, index and trigger of the log with what the migrations make."""
    findings = [
        Finding(
            kind="schema_differs",
            where=found.table,
            message=found.message,
            weight=Weight.REMARK if found.harmless else Weight.FAILURE,
        )
        for found in schema_deviations(connection)
    ]
    return Check("schema", f"{count(len(OURS), 'table')}, their indexes and triggers", findings)
