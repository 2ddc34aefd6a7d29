"""One byte string per JSON value."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given

from esper_es.domain.canonical import Json, canonical_bytes, fingerprint_of, finite_numbers, merkle_root

from .strategies import json_values


def shuffled(value: Json) -> Json:
    """The same value with the keys of every object in the opposite order."""
    if isinstance(value, dict):
        return {key: shuffled(item) for key, item in reversed(value.items())}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


@given(json_values)
def test_canonical_bytes_are_json_of_the_value(value: Json) -> None:
    assert json.loads(canonical_bytes(value)) == value


@given(json_values)
def test_the_order_of_keys_does_not_matter(value: Json) -> None:
    assert canonical_bytes(shuffled(value)) == canonical_bytes(value)


def test_a_tuple_and_a_list_are_the_same_value() -> None:
    assert canonical_bytes((1, (2, 3))) == canonical_bytes([1, [2, 3]])


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_has_no_canonical_bytes(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_bytes({"deep": [number]})


def test_a_fingerprint_names_its_hash() -> None:
    assert fingerprint_of({}) == "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def test_the_order_of_leaves_matters_to_the_root() -> None:
    assert merkle_root(["sha256:a", "sha256:b"]) != merkle_root(["sha256:b", "sha256:a"])


@pytest.mark.parametrize("value", [math.nan, math.inf, True, "1", None])
def test_finite_numbers_names_the_value_that_is_none(value: float) -> None:
    with pytest.raises(ValueError, match=r"metrics\['loss'\]"):
        finite_numbers({"acc": 1, "loss": value}, "metrics")


def test_finite_numbers_are_returned_as_floats() -> None:
    assert [type(number) for number in finite_numbers({"acc": 1}, "metrics").values()] == [float]
