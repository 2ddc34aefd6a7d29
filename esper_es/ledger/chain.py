"""The hash chain through the facts of each model, and the proof that nobody changed them.

Each fact is stored with the SHA-256 of the fact before it and of itself. What `verify_chain` proves:

- alone: no fact was altered, removed, inserted, duplicated or put in another order by somebody who did not
  also compute all later hashes anew; and, by the table `heads`, no newest facts were cut off by somebody who
  did not also change `heads`.
- with heads exported earlier (`heads.export_heads`) and kept where the database's owner cannot write: every
  fact up to those heads is the one that was recorded then, whatever the owner did since.

What it cannot prove: that facts newer than the exported heads were not rewritten by somebody who owns the
database; that facts of different models were recorded in the order of `sequence`; that what was recorded was
true.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import groupby
from operator import attrgetter
from typing import Any, Final
from uuid import UUID

from attrs import frozen
from sqlalchemy import Connection, exists, select
from sqlalchemy.sql.expression import type_coerce
from sqlalchemy.types import NullType

from esper_es.ledger.heads import Head
from esper_es.ledger.rows import COLUMNS, join_topic
from esper_es.ledger.tables import facts, heads

GENESIS: Final = "0" * 64
"""The previous hash of a model's first fact."""


class Tampering(StrEnum):
    """What is wrong with a stored history."""

    ALTERED = "altered"
    REMOVED = "removed"
    REORDERED = "reordered"
    DUPLICATED = "duplicated"
    RELINKED = "relinked"
    HEAD_MISMATCH = "head mismatch"


@frozen
class Finding:
    """One place where stored history is not the recorded one. `version` is where it shows; 0: no number."""

    kind: Tampering
    model_id: str
    version: int
    message: str


def link_hash(previous_hash: str, model_id: str, version: int, topic: str, at: str, body: bytes) -> str:
    """SHA-256, in hex, over the six fields in this order, as UTF-8 netstrings: `<length in bytes>:<bytes>,`.

    The lengths keep fields apart, so no two different facts are hashed as the same bytes.
    """
    texts = (previous_hash.encode(), model_id.encode(), b"%d" % version, topic.encode(), at.encode())
    fields = b"".join([b"%d:%b," % (len(field), field) for field in (*texts, body)])
    return hashlib.sha256(fields).hexdigest()


def verify_chain(connection: Connection, exported: Mapping[UUID, Head] | None = None) -> list[Finding]:
    """Check every link of every model, the table of heads, and heads that were exported earlier.

    It only reads, row by row, and does not mind writers at work.

    Args:
        connection: a connection to the log.
        exported: from `parse_heads`; the log may have grown since they were exported.

    Returns:
        What was found, by model and version; empty if the history is as it was recorded.
    """
    demanded = {str(model): head for model, head in (exported or {}).items()}
    findings: list[Finding] = []
    for model, rows in groupby(_rows(connection), key=attrgetter("model_id")):
        findings += _verify_model(model, rows, demanded.pop(model, None))
    missing = _heads_without_facts(connection) | demanded
    for model, head in sorted(missing.items()):
        message = f"all facts are missing; the newest was version {head.version}"
        findings.append(Finding(Tampering.REMOVED, model, _number(head.version), message))
    return findings


def _rows(connection: Connection) -> Iterable[Any]:
    # Facts and heads come in one statement, so that both are seen as of one moment. The body comes without
    # its type, as it is stored: after tampering, SQLite may hold text there.
    c = facts.c
    body = type_coerce(c.body, NullType()).label("body")
    head = (heads.c.version.label("head_version"), heads.c.hash.label("head_hash"))
    query = (
        select(
            c.sequence, c.model_id, c.version, c.name, c.schema, c.at, body, c.previous_hash, c.hash, *head
        )
        .outerjoin_from(facts, heads, heads.c.model_id == c.model_id)
        .order_by(c.model_id, c.version, c.sequence)
    )
    return connection.execute(query.execution_options(yield_per=1000))


def _heads_without_facts(connection: Connection) -> dict[str, Head]:
    query = select(heads.c.model_id, heads.c.version, heads.c.hash)
    query = query.where(~exists().where(facts.c.model_id == heads.c.model_id))
    return {model: Head(version, hash_) for model, version, hash_ in connection.execute(query)}


def _verify_model(model: str, rows: Iterable[Any], demanded: Head | None) -> Iterator[Finding]:
    previous = None
    demand_met = demanded is None
    for row in rows:
        if not is_intact(row):
            message = "the fact is not the one that was hashed"
            yield Finding(Tampering.ALTERED, model, _number(row.version), message)
        yield from _verify_link(model, previous, row)
        if demanded is not None and row.version == demanded.version:
            demand_met = True
            if row.hash != demanded.hash:
                message = "the fact is another one than when heads were exported: history was rewritten"
                yield Finding(Tampering.HEAD_MISMATCH, model, row.version, message)
        previous = row
    if demanded is not None and not demand_met:
        message = f"version {demanded.version}, recorded when heads were exported, is missing"
        yield Finding(Tampering.REMOVED, model, demanded.version, message)
    yield from _verify_head(model, previous)


def is_intact(row: Sequence[Any]) -> bool:
    """Say whether a row that `select_rows` selected, or one that begins like it, is the one that was hashed."""
    _, model, version, name, schema, at, body, previous_hash, hash_ = row[:COLUMNS]
    kinds = (type(model), type(version), type(name), type(schema), type(at), type(body), type(previous_hash))
    if kinds != (str, int, str, int, str, bytes, str):
        return False
    return bool(link_hash(previous_hash, model, version, join_topic(name, schema), at, body) == hash_)


def _verify_link(model: str, previous: Any, row: Any) -> Iterator[Finding]:
    version = _number(row.version)
    if previous is None:
        if row.previous_hash != GENESIS:
            yield Finding(Tampering.REMOVED, model, version, "the facts before this version are missing")
        return
    step = version - _number(previous.version)
    if step == 0:
        yield Finding(Tampering.DUPLICATED, model, version, "the version is recorded more than once")
    elif step != 1:
        message = f"between versions {previous.version} and {row.version} facts are missing"
        yield Finding(Tampering.REMOVED, model, version, message)
    elif row.previous_hash != previous.hash:
        message = f"it was recorded after another version {previous.version} than the one that is stored"
        yield Finding(Tampering.RELINKED, model, version, message)
    if row.sequence < previous.sequence:
        message = f"its sequence {row.sequence} is before that of version {previous.version}"
        yield Finding(Tampering.REORDERED, model, version, message)


def _verify_head(model: str, newest: Any) -> Iterator[Finding]:
    version, kept = _number(newest.version), _number(newest.head_version)
    if newest.head_hash is None:
        message = "the model has facts but no head: the table of heads was changed"
        yield Finding(Tampering.HEAD_MISMATCH, model, version, message)
    elif version != kept:
        message = f"the newest fact is version {newest.version}, its head says {newest.head_version}"
        yield Finding(Tampering.REMOVED if version < kept else Tampering.HEAD_MISMATCH, model, kept, message)
    elif newest.hash != newest.head_hash:
        message = "the newest fact is not the one its head names"
        yield Finding(Tampering.HEAD_MISMATCH, model, version, message)


def _number(stored: Any) -> int:
    """A stored version, or 0 where tampering left something else than a number."""
    return stored if isinstance(stored, int) else 0
