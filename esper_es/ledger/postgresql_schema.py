"""The schema of a PostgreSQL log against its migrations.

Tables, columns, indexes and constraints are compared by alembic; keys, triggers and their functions, rules and row
security, which alembic passes over, here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from attrs import frozen
from sqlalchemy import Connection, inspect, text

from esper_es.ledger.deviations import OURS, Deviation
from esper_es.ledger.revisions import VERSION_TABLE, migration_sql
from esper_es.projections.schema import metadata

_TRIGGER: Final = re.compile(
    r"CREATE TRIGGER (\w+) (BEFORE|AFTER) ([A-Z ]+?) ON (\w+)\s+"
    r"FOR EACH (ROW|STATEMENT) EXECUTE FUNCTION (\w+)\(\)"
)
_FUNCTION: Final = re.compile(r"CREATE FUNCTION (\w+)\(\).*?\$\$(.*?)\$\$", re.DOTALL)

# Bits of pg_trigger.tgtype (PostgreSQL's catalog/pg_trigger.h).
_ROW, _BEFORE = 1, 2
_EVENTS: Final = {"INSERT": 4, "DELETE": 8, "UPDATE": 16, "TRUNCATE": 32}

_TRIGGERS: Final = text(
    "SELECT c.relname, t.tgname, t.tgtype, t.tgenabled, t.tgqual IS NOT NULL, p.proname, p.prosrc "
    "FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid "
    "WHERE NOT t.tgisinternal AND c.relname = ANY(:ours) AND pg_table_is_visible(c.oid)"
)
_RULES: Final = text(
    "SELECT c.relname, r.rulename FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class "
    "WHERE c.relname = ANY(:ours) AND pg_table_is_visible(c.oid)"
)
_ROW_SECURITY: Final = text(
    "SELECT c.relname FROM pg_class c "
    "WHERE c.relrowsecurity AND c.relname = ANY(:ours) AND pg_table_is_visible(c.oid)"
)


@frozen
class _Trigger:
    """When a trigger fires, and the body of the function that it calls."""

    row: bool
    before: bool
    events: frozenset[str]
    body: str
    enabled: bool = True
    conditional: bool = False


def deviations(connection: Connection) -> list[Deviation]:
    """Return where a log's schema is not the one that the migrations make."""
    return [
        *_of_tables(connection),
        *_of_keys(connection),
        *_of_triggers(connection),
        *_of_rules(connection),
    ]


def _of_tables(connection: Connection) -> Iterator[Deviation]:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    options = {
        "version_table": VERSION_TABLE,
        "compare_type": True,
        "compare_server_default": True,
        "include_name": lambda name, kind, _: kind != "table" or name in OURS,
    }
    context = MigrationContext.configure(connection, opts=options)
    for change in compare_metadata(context, metadata):
        for step in change if isinstance(change, list) else [change]:
            yield _in_words(step)


def _in_words(step: tuple[Any, ...]) -> Deviation:
    """Say what alembic would do to repair a schema as what is wrong with it."""
    operation = str(step[0])
    if operation.startswith("modify_"):
        _, _, table, column, _, stored, made = step
        what = operation.removeprefix("modify_")
        message = f"the column {column} is not as it was made: its {what} is {stored!r} instead of {made!r}"
        return Deviation(table, message, harmless=what == "comment")
    if operation in ("add_column", "remove_column"):
        _, _, table, column = step
        return Deviation(table, f"the column {column.name} {_missing_or_added(operation)}")
    item = step[1]
    if operation in ("add_table", "remove_table"):
        return Deviation(item.name, f"the table {_missing_or_added(operation)}")
    kind = {"index": "index", "constraint": "constraint", "fk": "foreign key"}[operation.partition("_")[2]]
    columns = ", ".join(column.name for column in item.columns)
    harmless = operation == "remove_index" and not item.unique
    return Deviation(
        item.table.name, f"the {kind} {item.name} on {columns} {_missing_or_added(operation)}", harmless
    )


def _missing_or_added(operation: str) -> str:
    return "is missing" if operation.startswith("add_") else "was added"


def _of_keys(connection: Connection) -> Iterator[Deviation]:
    found = inspect(connection)
    there = set(found.get_table_names())
    for table in metadata.sorted_tables:
        if table.name not in there:
            continue  # alembic has said so
        made = [column.name for column in table.primary_key]
        stored = found.get_pk_constraint(table.name)["constrained_columns"]
        if sorted(stored) != sorted(made):
            message = f"the primary key is on {', '.join(stored) or 'nothing'} instead of {', '.join(made)}"
            yield Deviation(table.name, message)
        for check in found.get_check_constraints(table.name):
            yield Deviation(table.name, f"the constraint {check['name']} was added: {check['sqltext']}")


def _of_triggers(connection: Connection) -> Iterator[Deviation]:
    stored, made = dict(_stored_triggers(connection)), dict(_made_triggers(migration_sql("postgresql")))
    for (table, name), trigger in made.items():
        found = stored.get((table, name))
        if found is None:
            yield Deviation(table, f"the trigger {name} is missing")
        elif not found.enabled:
            yield Deviation(table, f"the trigger {name} is disabled")
        elif found != trigger:
            yield Deviation(table, f"the trigger {name}, or its function, is not as it was made")
    for table, name in stored.keys() - made.keys():
        yield Deviation(table, f"the trigger {name} was added")


def _stored_triggers(connection: Connection) -> Iterator[tuple[tuple[str, str], _Trigger]]:
    for table, name, bits, enabled, conditional, _, body in connection.execute(
        _TRIGGERS, {"ours": list(OURS)}
    ):
        events = frozenset(event for event, bit in _EVENTS.items() if bits & bit)
        fires = enabled in ("O", "A", b"O", b"A")
        yield (
            (table, name),
            _Trigger(bool(bits & _ROW), bool(bits & _BEFORE), events, body, fires, conditional),
        )


def _made_triggers(sql: str) -> Iterator[tuple[tuple[str, str], _Trigger]]:
    bodies = dict(_FUNCTION.findall(sql))
    for name, moment, events, table, level, function in _TRIGGER.findall(sql):
        yield (
            (table, name),
            _Trigger(level == "ROW", moment == "BEFORE", frozenset(events.split(" OR ")), bodies[function]),
        )


def _of_rules(connection: Connection) -> Iterable[Deviation]:
    ours = {"ours": list(OURS)}
    for table, rule in connection.execute(_RULES, ours):
        yield Deviation(table, f"the rule {rule} was added")
    for (table,) in connection.execute(_ROW_SECURITY, ours):
        yield Deviation(table, "row security was switched on: readers may not see every row")
