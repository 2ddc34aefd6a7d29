"""The newest version and hash of each model: kept beside the facts, and exported to be kept elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, select

from esper_es.domain.errors import IntegrityFailure, UsageError
from esper_es.ledger import tables

_FORMAT: Final = "esper-es heads 1"
_HASH: Final = re.compile("[0-9a-f]{64}")


class Head(NamedTuple):
    """Version and hash (SHA-256, hex) of a model's newest fact."""

    version: int
    hash: str


def heads(connection: Connection) -> dict[UUID, Head]:
    """The head of every model, as the database keeps it. `verify_chain` checks it against the facts.

    Raises:
        IntegrityFailure: the table names something that is no model.
    """
    t = tables.heads
    rows = connection.execute(select(t.c.model_id, t.c.version, t.c.hash).order_by(t.c.model_id))
    return {_stored_id(model_id): Head(version, hash_) for model_id, version, hash_ in rows}


def _stored_id(stored: Any) -> UUID:
    try:
        return UUID(stored)
    except (ValueError, TypeError, AttributeError) as error:
        raise IntegrityFailure(
            f"the table of heads names the model {stored!r}, which is no UUID: it was altered"
        ) from error


def export_heads(heads: Mapping[UUID, Head]) -> str:
    """Heads as JSON text; equal heads give equal text, so that it can be signed.

    Keep it where the owner of the database cannot write: a signed file, a commit, another machine.
    """
    models = {str(model): {"version": head.version, "hash": head.hash} for model, head in heads.items()}
    return json.dumps({"format": _FORMAT, "heads": models}, indent=1, sort_keys=True) + "\n"


def parse_heads(text: str) -> dict[UUID, Head]:
    """Inverse of `export_heads`.

    Raises:
        UsageError: the text was not written by `export_heads`.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise UsageError(f"exported heads must be JSON written by export_heads: {error}") from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise UsageError(f'exported heads must be a JSON object with "format": "{_FORMAT}"')
    entries = document.get("heads")
    if not isinstance(entries, dict):
        raise UsageError('exported heads must hold an object "heads" that maps model ids to heads')
    return {_model_id(model): _head(model, entry) for model, entry in entries.items()}


def _model_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise UsageError(f"exported heads name the model {text!r}, which is not a UUID") from error


def _head(model: str, entry: Any) -> Head:
    match entry:
        case {"version": int(version), "hash": str(hash_)} if _HASH.fullmatch(hash_):
            return Head(version, hash_)
    raise UsageError(
        f'the exported head of model {model} must be {{"version": integer, "hash": 64 hex digits}}, '
        f"got {entry!r}"
    )
