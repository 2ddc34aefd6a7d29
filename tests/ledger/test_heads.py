"""Exported heads come back as they were; damaged ones are refused with a word about what is wrong."""

from __future__ import annotations

import json
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_es.domain.errors import UsageError
from esper_es.ledger.heads import Head, export_heads, parse_heads

MODEL = "0a04c4d0-6ec6-400b-8e20-dcef2fe7fc61"

hashes = st.text(alphabet="0123456789abcdef", min_size=64, max_size=64)


@given(st.dictionaries(st.uuids(), st.builds(Head, st.integers(0, 2**31 - 1), hashes)))
def test_exported_heads_are_parsed_as_they_were(exported: dict[UUID, Head]) -> None:
    assert parse_heads(export_heads(exported)) == exported


@given(st.permutations([(UUID(int=n), Head(n, f"{n:064x}")) for n in range(5)]))
def test_equal_heads_are_exported_as_equal_text(entries: list[tuple[UUID, Head]]) -> None:
    assert export_heads(dict(entries)) == export_heads(dict(sorted(entries)))


def exported(**changes: object) -> str:
    return json.dumps({"format": "esper-es heads 1", "heads": {}} | changes)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "must be JSON"),
        ("[]", 'must be a JSON object with "format"'),
        (exported(format="esper-es heads 2"), 'with "format": "esper-es heads 1"'),
        (exported(heads=[]), 'must hold an object "heads"'),
        (exported(heads={"digits": {"version": 1, "hash": "0" * 64}}), "'digits', which is not a UUID"),
        (exported(heads={MODEL: {"version": "1", "hash": "0" * 64}}), "version.*integer"),
        (exported(heads={MODEL: {"version": 1, "hash": "0" * 63}}), "64 hex digits"),
        (exported(heads={MODEL: 1}), "must be"),
    ],
)
def test_damaged_heads_are_refused(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        parse_heads(text)
