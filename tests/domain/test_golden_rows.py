"""Rows that earlier releases wrote are read by this one."""

from __future__ import annotations

import json

import pytest

from esper_es.domain.catalog import BY_NAME
from esper_es.domain.edits import EDIT_NAMES
from esper_es.domain.envelope import Envelope
from esper_es.domain.facts import LayerWidthModified
from esper_es.domain.index_map import IndexMap
from esper_es.ledger.codec import decode, encode

from .golden_rows import FOLDED_ROWS, GoldenRow, expected_topics, read_row, read_rows
from .sample_facts import FOLDED, MODEL, with_own_slices

ROWS = {row.topic: row for row in read_rows()}


def read(row: GoldenRow) -> Envelope:
    return decode(MODEL, 23, row.topic, row.state)


def test_every_name_and_schema_of_the_catalog_has_a_golden_row() -> None:
    assert set(ROWS) == expected_topics()


def test_every_edit_stands_in_a_golden_row() -> None:
    text = json.dumps([row.body for row in ROWS.values()])
    assert [name for name in EDIT_NAMES.values() if f'"edit": "{name}"' not in text] == []


@pytest.mark.parametrize("topic", ROWS)
def test_a_golden_row_loads_as_the_fact_of_its_name(topic: str) -> None:
    name, _, _ = topic.rpartition("/")
    assert type(read(ROWS[topic]).fact) is BY_NAME[name].cls


@pytest.mark.parametrize(
    "topic", [topic for topic in ROWS if topic.endswith(f"/{BY_NAME[topic.rpartition('/')[0]].schema}")]
)
def test_a_golden_row_of_the_current_schema_is_written_again_as_it_was(topic: str) -> None:
    written_topic, state = encode(read(ROWS[topic]))
    assert (written_topic, json.loads(state)) == (topic, ROWS[topic].body)


@pytest.mark.parametrize("schema", [1, 2, 3, 4])
def test_every_schema_of_a_width_says_which_units_stayed(schema: int) -> None:
    fact = read(ROWS[f"surgery.layer_width_modified/{schema}"]).fact
    assert isinstance(fact, LayerWidthModified)
    assert fact.kept_units == IndexMap.of([0, 1, 2, 7])


def test_the_folded_golden_row_is_read_edit_by_edit() -> None:
    assert read(read_row(FOLDED_ROWS / "v4.json")).fact == FOLDED


def test_the_folded_golden_row_of_slices_by_themselves_is_read_edit_by_edit() -> None:
    assert read(read_row(FOLDED_ROWS / "v3.json")).fact == with_own_slices(FOLDED)


def test_the_folded_golden_row_is_written_again_as_it_was() -> None:
    row = read_row(FOLDED_ROWS / "v4.json")
    topic, state = encode(read(row))
    assert (topic, json.loads(state)) == (row.topic, row.body)
