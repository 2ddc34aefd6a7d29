"""Plain values as JSON, and back: nothing is lost and nothing can run."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_es.domain.canonical import canonical_bytes
from esper_es.domain.errors import IntegrityFailure, UsageError
from esper_es.projections.live.plain import from_json, to_json

FEW = settings(max_examples=100, deadline=None, derandomize=True)

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
KEYS = st.integers() | st.text() | st.floats(allow_nan=False) | st.tuples(st.integers(), st.text())
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(KEYS, inner)
        | st.dictionaries(st.text(), inner)
    ),
    max_leaves=12,
)


def there_and_back(value: Any) -> Any:
    tensors: dict[str, torch.Tensor] = {}
    stored = json.loads(canonical_bytes(to_json(value, "here", tensors.__setitem__)))
    return from_json(stored, lambda name: tensors[name].clone())


def same(one: Any, other: Any) -> bool:
    """Equality with NaN equal to itself, and types compared."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float) and math.isnan(one):
        return math.isnan(other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(value, other[key]) for key, value in one.items())
    return bool(one == other)


@given(VALUES)
@FEW
def test_every_plain_value_comes_back_the_same(value: Any) -> None:
    assert same(there_and_back(value), value)


def test_a_counter_comes_back_as_a_counter() -> None:
    assert same(there_and_back(Counter({5: 2, 9: 1})), Counter({5: 2, 9: 1}))


def test_tensors_are_taken_out_by_name_and_put_back() -> None:
    tensors: dict[str, torch.Tensor] = {}
    stored = to_json({"step": torch.tensor(3.0), "list": [torch.ones(2)]}, "here", tensors.__setitem__)
    assert sorted(tensors) == ["here/list/0", "here/step"]
    back = from_json(stored, lambda name: tensors[name])
    assert torch.equal(back["list"][0], torch.ones(2))


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", lambda: None, complex(1, 2)])
def test_what_only_pickle_could_keep_is_refused_with_its_place(value: object) -> None:
    with pytest.raises(UsageError, match=r"here/inner is a .*can't be captured without pickle"):
        to_json({"inner": value}, "here", lambda name, tensor: None)


def test_json_of_an_unknown_tag_is_damage() -> None:
    with pytest.raises(IntegrityFailure, match="unknown tag 'python/object'"):
        from_json({"$": "python/object", "value": "os.system"}, lambda name: torch.ones(1))
