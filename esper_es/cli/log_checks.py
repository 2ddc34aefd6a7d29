"""Checks of the log: the database file, the hash chain, and that every fact can be read and folded."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from uuid import UUID

from attrs import frozen
from sqlalchemy import Connection

from esper_es.cli.findings import Check, Finding
from esper_es.cli.layout import count
from esper_es.domain.envelope import Envelope
from esper_es.domain.errors import EsperError, IntegrityFailure
from esper_es.domain.fold import fold
from esper_es.domain.state import ModelState
from esper_es.ledger.chain import verify_chain
from esper_es.ledger.codec import decode
from esper_es.ledger.heads import Head
from esper_es.ledger.rows import join_topic, select_rows
from esper_es.ledger.tables import facts


@frozen
class Histories:
    """What the log says, as far as it can be read.

    Attributes:
        states: newest state of each model whose facts all fold, by the text of its id.
        names: of the models whose registration can be read, by the text of their ids.
        facts: how many facts there are.
    """

    states: Mapping[str, ModelState]
    names: Mapping[str, str]
    facts: int

    def place(self, model: str, version: object) -> str:
        """Return model and version in words."""
        return f"{self.names.get(model, model)} {version}"


def check_database(connection: Connection) -> Check:
    """Ask SQLite whether every page and index of its file is sound."""
    if connection.dialect.name != "sqlite":
        return Check("database", f"left to {connection.dialect.name}")
    rows = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    findings = [
        Finding(kind="damaged_database", where="database", message=str(row)) for row in rows if row != "ok"
    ]
    return Check("database", "every page and index", findings)


def check_facts(connection: Connection) -> tuple[Check, Histories]:
    """Decode every fact, and fold those of each model."""
    states: dict[str, ModelState | None] = {}
    broken: dict[str, list[tuple[object, str]]] = {}
    number = 0
    for model, version, read in _read(connection):
        number += 1
        try:
            if isinstance(read, EsperError):
                raise read
            if model not in broken:
                states[model] = fold(states.get(model), (read,))
        except EsperError as error:
            broken.setdefault(model, []).append((version, str(error)))
    readable = {model: state for model, state in states.items() if state is not None}
    histories = Histories(
        states={model: state for model, state in readable.items() if model not in broken},
        names={model: state.name for model, state in readable.items()},
        facts=number,
    )
    findings = [
        Finding(kind="unreadable_fact", where=histories.place(model, version), message=message)
        for model, problems in broken.items()
        for version, message in problems
    ]
    models = count(len(states.keys() | broken.keys()), "model")
    return Check("facts", f"{count(number, 'fact')} of {models} decoded and folded", findings), histories


def envelopes(connection: Connection, models: Container[str]) -> Iterator[Envelope]:
    """Yield every fact of some models whose facts can all be read, those of one model in order."""
    for model, _, read in _read(connection):
        if model in models and isinstance(read, Envelope):
            yield read


def _read(connection: Connection) -> Iterator[tuple[str, object, Envelope | EsperError]]:
    query = select_rows().order_by(facts.c.model_id, facts.c.version)
    for row in connection.execute(query.execution_options(yield_per=500)):
        try:
            topic = join_topic(row.name, row.schema)
            yield row.model_id, row.version, decode(_identity(row.model_id), row.version, topic, row.body)
        except EsperError as error:
            yield row.model_id, row.version, error


def _identity(model: str) -> UUID:
    try:
        return UUID(model)
    except (ValueError, TypeError, AttributeError):
        raise IntegrityFailure(f"the model id {model!r} is no UUID: the row was altered") from None


def check_chain(connection: Connection, exported: Mapping[UUID, Head] | None, histories: Histories) -> Check:
    """Check every link of every model's chain, and heads exported earlier."""
    findings = [
        Finding(
            kind=found.kind.value.replace(" ", "_"),
            where=histories.place(found.model_id, found.version),
            message=found.message,
        )
        for found in verify_chain(connection, exported)
    ]
    against = "" if exported is None else f", against {count(len(exported), 'exported head')}"
    return Check("chain", f"the hashes of {count(histories.facts, 'fact')}{against}", findings)
