"""A SQLite cache of which pack contains what.

Nothing is lost with it: one that cannot be used is emptied, and filled again from the packs' footers by
whoever finds packs that are not indexed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from sqlite3 import Connection

import orjson
from attrs import frozen

from esper_es.vault.directory import is_pack_name
from esper_es.vault.format import Entry, Pack, is_well_formed
from esper_es.vault.index_copy import IndexCopy
from esper_es.vault.index_database import IndexDatabase

_LOOKUP = 500
"""Digests per query."""


@frozen
class Location:
    """One copy of some content. `pack_size` is what the pack measured when it was indexed."""

    pack: str
    pack_size: int
    entry: Entry
    damaged: bool


class Index:
    """The index of one vault: the file that threads and processes share, or a private copy of it.

    Raises:
        VaultError: from every method, when the index cannot be used for a reason other than damage.
    """

    def __init__(self, database: IndexDatabase | IndexCopy) -> None:
        self._database = database

    def packs(self) -> dict[str, int]:
        """Return the size of every pack that was indexed, by name."""
        return self._database.read(lambda db: dict(db.execute("SELECT name, size FROM packs").fetchall()))

    def add(self, pack: Pack) -> None:
        """Index a pack. What is already there stays."""
        self._database.write(lambda db: _insert(db, pack))

    def replace(self, pack: Pack) -> None:
        """Index a pack anew; what was known to be damaged in it stays known."""

        def operation(db: Connection) -> None:
            damaged = [
                found.entry.digest for found in _select(db, "packs.name IN", [pack.name]) if found.damaged
            ]
            _delete(db, pack.name)
            _insert(db, pack)
            for digest in damaged:
                _mark_damaged(db, digest, pack.name)

        self._database.write(operation)

    def forget(self, pack: str) -> None:
        """Drop everything about a pack."""
        self._database.write(lambda db: _delete(db, pack))

    def mark_damaged(self, digest: str, pack: str) -> None:
        """Remember that this copy does not have its digest, so that captures store the content again."""
        self._database.write(lambda db: _mark_damaged(db, digest, pack))

    def mark_pack_damaged(self, pack: str) -> None:
        """Mark every copy in a pack as damaged."""
        statement = "UPDATE blobs SET damaged = 1 WHERE pack = (SELECT id FROM packs WHERE name = ?)"
        self._database.write(lambda db: db.execute(statement, (pack,)))

    def mark_intact(self, pack: str) -> None:
        """Take back every mark of damage on a pack."""
        statement = (
            "UPDATE blobs SET damaged = 0 WHERE damaged AND pack = (SELECT id FROM packs WHERE name = ?)"
        )
        self._database.write(lambda db: db.execute(statement, (pack,)))

    def locations(self, digests: Iterable[str]) -> dict[str, list[Location]]:
        """Return the known copies of each digest, intact ones first; digests without any are left out."""
        wanted = list(digests)

        def operation(db: Connection) -> dict[str, list[Location]]:
            found: dict[str, list[Location]] = {}
            for start in range(0, len(wanted), _LOOKUP):
                for location in _select(db, "blobs.digest IN", wanted[start : start + _LOOKUP]):
                    found.setdefault(location.entry.digest, []).append(location)
            return found

        return self._database.read(operation)

    def contents(self, pack: str) -> list[Location]:
        """Return what the index says about one pack."""
        return self._database.read(lambda db: _select(db, "packs.name IN", [pack]))

    def intact(self) -> list[tuple[str, str]]:
        """Return (digest, pack) of every copy that is not known to be damaged."""
        query = "SELECT digest, name FROM blobs JOIN packs ON packs.id = blobs.pack WHERE NOT damaged"
        return self._database.read(lambda db: db.execute(query).fetchall())

    def close(self) -> None:
        """Close the connection; the next use opens it again."""
        self._database.close()


def _insert(db: Connection, pack: Pack) -> None:
    db.execute("INSERT OR IGNORE INTO packs (name, size) VALUES (?, ?)", (pack.name, pack.size))
    (identity,) = db.execute("SELECT id FROM packs WHERE name = ?", (pack.name,)).fetchone()
    db.executemany(
        "INSERT OR IGNORE INTO blobs (digest, pack, dtype, shape, offset, length) VALUES (?, ?, ?, ?, ?, ?)",
        [(e.digest, identity, e.dtype, _encoded(e.shape), e.offset, e.length) for e in pack.entries],
    )


def _delete(db: Connection, pack: str) -> None:
    db.execute("DELETE FROM blobs WHERE pack = (SELECT id FROM packs WHERE name = ?)", (pack,))
    db.execute("DELETE FROM packs WHERE name = ?", (pack,))


def _mark_damaged(db: Connection, digest: str, pack: str) -> None:
    statement = (
        "UPDATE blobs SET damaged = 1 WHERE digest = ? AND pack = (SELECT id FROM packs WHERE name = ?)"
    )
    db.execute(statement, (digest, pack))


def _select(db: Connection, condition: str, values: Sequence[str]) -> list[Location]:
    query = (
        "SELECT name, size, digest, dtype, shape, offset, length, damaged "
        "FROM blobs JOIN packs ON packs.id = blobs.pack "
        f"WHERE {condition} ({','.join('?' * len(values))}) ORDER BY damaged"
    )
    rows = db.execute(query, values).fetchall()
    return [location for location in map(_location, rows) if location is not None]


def _location(row: tuple[str, int, str, str | None, str | None, int, int, int]) -> Location | None:
    pack, size, digest, dtype, shape, offset, length, damaged = row
    try:
        entry = Entry(digest, dtype, _decoded(shape), offset, length)
    except (ValueError, TypeError):
        return None  # a damaged row knows nothing; the pack's footer does
    plausible = is_pack_name(pack) and is_well_formed(entry)
    return Location(pack, size, entry, bool(damaged)) if plausible else None


def _encoded(shape: tuple[int, ...] | None) -> str | None:
    return None if shape is None else orjson.dumps(shape).decode()


def _decoded(shape: str | None) -> tuple[int, ...] | None:
    return None if shape is None else tuple(orjson.loads(shape))
