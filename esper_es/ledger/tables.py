"""The tables of the log itself.

`facts` is the history and is never changed: triggers refuse UPDATE, DELETE and TRUNCATE.
`heads` holds the newest version and hash of each model, so that facts cut off at the end are missed.
`followers` holds how far each read model has come.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, String, Table, Text, UniqueConstraint

from esper_es.projections.schema import metadata

# SQLite gives an automatic number only to a column whose type is exactly INTEGER.
_NUMBER: Final = BigInteger().with_variant(Integer(), "sqlite")
_MODEL_ID: Final = String(36)
_HASH: Final = String(64)

facts: Final = Table(
    "facts",
    metadata,
    Column("sequence", _NUMBER, primary_key=True, comment="position in the whole log; only grows"),
    Column("model_id", _MODEL_ID, nullable=False, comment="UUID of the model, lower case with hyphens"),
    Column("version", Integer, nullable=False, comment="version of the model that this fact led to"),
    Column("name", Text, nullable=False, comment="stable name of the fact, e.g. surgery.layer_added"),
    Column("schema", Integer, nullable=False, comment="schema version of the body; 0 if the topic has none"),
    Column("at", String(32), nullable=False, comment="UTC time of the append, ISO 8601, microseconds"),
    Column("body", LargeBinary, nullable=False, comment="the exact bytes that were hashed: JSON in UTF-8"),
    Column("previous_hash", _HASH, nullable=False, comment="hash of the model's fact before this one"),
    Column("hash", _HASH, nullable=False, comment="SHA-256 over all of the above except sequence, in hex"),
    UniqueConstraint("model_id", "version"),
    sqlite_autoincrement=True,
)

heads: Final = Table(
    "heads",
    metadata,
    Column("model_id", _MODEL_ID, primary_key=True, comment="UUID of the model"),
    Column("version", Integer, nullable=False, comment="version of its newest fact"),
    Column("hash", _HASH, nullable=False, comment="hash of its newest fact"),
)

followers: Final = Table(
    "followers",
    metadata,
    Column("name", String(200), primary_key=True, comment="name of the read model"),
    Column("position", _NUMBER, nullable=False, comment="sequence of the last fact it has applied; 0: none"),
)
