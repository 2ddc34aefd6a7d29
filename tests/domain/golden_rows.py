"""Stored rows of every fact and schema version ever released: the promise that old logs stay readable.

``golden/v<schema>/<stored name>.json`` holds the topic and the body of one row. They are data: once released,
never changed. When a fact is new, or its schema version was raised, give it an example in ``sample_facts.py``
and run ``python -m domain.golden_rows`` in ``tests/``: it writes the rows that are missing and leaves the
others alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from esper_es.domain.canonical import Json
from esper_es.domain.catalog import BY_CLASS, ENTRIES
from esper_es.domain.facts import Fact
from esper_es.ledger.codec import encode

from .sample_facts import FOLDED, SAMPLES, enclosed

FOLDER = Path(__file__).parent / "golden"
FOLDED_ROWS = FOLDER / "folded"
"""Rows of ``FOLDED``, whose edits have much in common, by schema."""


@frozen
class GoldenRow:
    """A row that some release wrote."""

    topic: str
    body: Json

    @property
    def state(self) -> bytes:
        return json.dumps(self.body).encode()


def read_rows() -> Iterator[GoldenRow]:
    yield from map(read_row, sorted(FOLDER.glob("v*/*.json")))


def read_row(path: Path) -> GoldenRow:
    row = json.loads(path.read_text("utf-8"))
    return GoldenRow(row["topic"], row["body"])


def expected_topics() -> set[str]:
    """Topics that the catalog says were ever written."""
    return {f"{entry.name}/{schema}" for entry in ENTRIES for schema in range(1, entry.schema + 1)}


def write_missing_rows() -> list[Path]:
    """Write a row of each sample whose current schema has none yet; return the new files."""
    written: list[Path] = []
    for fact in SAMPLES:
        entry = BY_CLASS[type(fact)]
        written += _write(FOLDER / f"v{entry.schema}" / f"{entry.name}.json", fact)
    return [*written, *_write(FOLDED_ROWS / f"v{BY_CLASS[type(FOLDED)].schema}.json", FOLDED)]


def _write(path: Path, fact: Fact) -> list[Path]:
    if path.exists():
        return []
    topic, state = encode(enclosed(fact))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"topic": topic, "body": json.loads(state)}, indent=2) + "\n", "utf-8")
    return [path]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for new in write_missing_rows():
        logging.info("wrote %s", new.relative_to(FOLDER))
