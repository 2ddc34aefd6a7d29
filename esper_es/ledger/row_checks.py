"""Facts are checked as they are read: each row against its own hash, and against the row before it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from esper_es.domain.errors import IntegrityFailure
from esper_es.ledger.chain import is_intact
from esper_es.ledger.rows import join_topic

Row: TypeAlias = Any
"""A row that `select_rows` selected."""
_VERSION, _PREVIOUS_HASH, _HASH = 2, 7, 8
"""Places in it: found by name they take longer than the hash does."""


def intact(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield rows, of whatever models, that are the ones that were hashed when they were recorded.

    Raises:
        IntegrityFailure: at the first that is not.
    """
    for row in rows:
        if not is_intact(row):
            raise IntegrityFailure(
                f"{_label(row)}: it is not the fact that was hashed when it was recorded; the row was altered"
            )
        yield row


def linked(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield the rows of one model by version, up or down, where no two neighbours are of different histories.

    Raises:
        IntegrityFailure: at the first that is not the one that its successor was recorded after.
    """
    last: Row = None
    for row in rows:
        if last is not None:
            earlier, later = (last, row) if last[_VERSION] < row[_VERSION] else (row, last)
            follows = later[_VERSION] == earlier[_VERSION] + 1
            if follows and later[_PREVIOUS_HASH] != earlier[_HASH]:
                raise IntegrityFailure(
                    f"{_label(later)}: it was recorded after another version {earlier.version} than the one that is "
                    "stored; the row was altered"
                )
        yield row
        last = row


def _label(row: Row) -> str:
    return f"version {row.version} of model {row.model_id} ({join_topic(row.name, row.schema)})"
