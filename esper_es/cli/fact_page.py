"""One fact in full, as stored: for programs and for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

import orjson
from attrs import frozen
from rich.console import RenderableType
from rich.text import Text

from esper_es.cli.edit_words import edit_in_words, inline
from esper_es.cli.layout import Hanging, joined, pairs, signed, size, words
from esper_es.cli.summaries import summary_of
from esper_es.domain.canonical import Json
from esper_es.domain.edits import digests_of
from esper_es.domain.envelope import Envelope
from esper_es.domain.errors import UsageError
from esper_es.domain.facts import Effects, LayerWidthModified, ModelRegistered
from esper_es.ledger.codec import decode
from esper_es.ledger.log import Log
from esper_es.ledger.rows import StoredFactRow, join_topic, select_rows
from esper_es.ledger.tables import facts


@frozen
class StoredFact:
    """A fact, and the row that holds it."""

    envelope: Envelope
    row: StoredFactRow

    @property
    def body(self) -> Mapping[str, Json]:
        """The stored JSON: moment, cause and fact."""
        body: dict[str, Json] = orjson.loads(self.row.body)
        return body


def stored_fact(log: Log, name: str, model: UUID, version: int) -> StoredFact:
    """Read one fact.

    Raises:
        UsageError: if the model has no such version.
        LedgerError, IntegrityFailure: if it can't be decoded.
    """
    query = select_rows().where(facts.c.model_id == str(model), facts.c.version == version)
    with log.database.connect() as connection:
        found = connection.execute(query).first()
    if found is None:
        state = log.load(model)
        newest = 0 if state is None else state.version
        raise UsageError(f"model {name!r} has no version {version}; it has 1 to {newest}")
    row = StoredFactRow.of(found)
    return StoredFact(decode(model, version, join_topic(row.name, row.schema), row.body), row)


def fact_document(fact: StoredFact, model: str) -> dict[str, Json]:
    """Return everything that is stored about a fact, as JSON."""
    return {
        "model": model,
        "version": fact.row.version,
        "sequence": fact.row.sequence,
        "name": fact.row.name,
        "schema": fact.row.schema,
        "summary": summary_of(fact.envelope.fact),
        **fact.body,
        "hash": fact.row.hash,
        "previous_hash": fact.row.previous_hash,
    }


def fact_lines(fact: StoredFact, model: str, caused_by: Envelope | None) -> Iterator[RenderableType]:
    """Yield a fact for a person; ``caused_by`` is the fact that led to it, if one did."""
    title = f"version {fact.row.version} of {model}"
    yield Hanging(words(f"{title}  ", "yellow"), words(f"{fact.row.name}/{fact.row.schema}", "bold cyan"))
    yield Hanging(words(summary_of(fact.envelope.fact)))
    yield Text()
    yield from pairs(_cause(fact.envelope, caused_by))
    yield from _section("says", _fields(fact))
    edits = getattr(fact.envelope.fact, "edits", ())
    yield from _section("edits", [(str(n), edit_in_words(edit)) for n, edit in enumerate(edits, start=1)])
    effects = getattr(fact.envelope.fact, "effects", None)
    if effects is not None:
        yield from _section("effects", _effects(effects))
    brought = {name: digest for edit in edits for name, digest in digests_of(edit).items()}
    yield from _section("tensors that came in", list(brought.items()))
    yield from _section("chain", [("hash", fact.row.hash), ("previous", fact.row.previous_hash)])


def _section(title: str, entries: list[tuple[str, str]]) -> Iterator[RenderableType]:
    if entries:
        yield Text()
        yield words(title, "bold")
        yield from pairs([(name, words(value)) for name, value in entries], indent=2)


def _cause(envelope: Envelope, caused_by: Envelope | None) -> list[tuple[str, Text | str]]:
    cause = envelope.cause
    entries: list[tuple[str, Text | str]] = [
        ("at", f"{envelope.at}, epoch {envelope.epoch}, step {envelope.step}"),
        ("actor", words(cause.actor, "green")),
    ]
    if cause.reasoning:
        entries.append(("reasoning", cause.reasoning))
    if cause.decision_id is not None:
        entries.append(("decision", cause.decision_id))
    if cause.confidence is not None:
        entries.append(("confidence", f"{cause.confidence:g}"))
    if caused_by is not None:
        led = joined(words(f"{caused_by.version}  ", "yellow"), summary_of(caused_by.fact))
        entries.append(("caused by", led))
    return entries


def _fields(fact: StoredFact) -> list[tuple[str, str]]:
    """Return what a fact says besides its edits and effects, as it is stored, but for what is stored in runs."""
    stored: dict[str, Any] = dict(fact.body["fact"])
    for elsewhere in ("edits", "effects", "index_maps"):
        stored.pop(elsewhere, None)
    said = fact.envelope.fact
    if isinstance(said, ModelRegistered):
        stored |= _registration(said, stored)
    if isinstance(said, LayerWidthModified) and said.kept_units is not None:
        stored["kept_units"] = list(said.kept_units)
    return [(name, _value(value)) for name, value in stored.items()]


def _registration(fact: ModelRegistered, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the long fields of a registration by name and fingerprint; ``tree 1`` shows the architecture."""
    base = {**stored["base"], "architecture": fact.base.architecture.fingerprint}
    return {"base": base, "lifecycle": f"{fact.lifecycle.name} {fact.lifecycle.version}"}


def _value(value: Json) -> str:
    return value if isinstance(value, str) else inline(value)


def _effects(effects: Effects) -> list[tuple[str, str]]:
    difference = effects.output_difference
    grown = effects.parameters_after - effects.parameters_before
    entries = [
        ("output difference", "not comparable" if difference is None else f"{difference:.3g}"),
        ("parameters", f"{effects.parameters_before:,} -> {effects.parameters_after:,} ({signed(grown)})"),
        ("bytes", f"{size(effects.bytes_before)} -> {size(effects.bytes_after)}"),
        ("training memory", f"{size(effects.memory_bytes)}, estimated"),
        ("graph depth", str(effects.graph_depth)),
        ("duration", f"{effects.duration_ms:.1f} ms"),
    ]
    entries += [(f"optimizer of {name}", what) for name, what in sorted(effects.optimizer.items())]
    entries += [(f"validator {name}", verdict) for name, verdict in effects.validators.items()]
    return entries
