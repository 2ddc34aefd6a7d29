"""Hypothesis strategies for facts and all they hold, drawn from the declared types of their classes.

A new fact, or a new field, needs nothing here unless a validator narrows what its type allows; then its class
gets a line in ``NARROWED``.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Union, get_args, get_origin

from attrs import fields, has, resolve_types
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from esper_es.domain.alpha import CURVES, AlphaSchedule
from esper_es.domain.catalog import ENTRIES
from esper_es.domain.constraints import SurgeryConstraints
from esper_es.domain.decisions import ADAPTATION_TYPES, PARAMETERS, REQUIRED, AdaptationDecision
from esper_es.domain.envelope import Cause, Envelope
from esper_es.domain.facts import Fact
from esper_es.domain.index_map import NEW, IndexMap
from esper_es.domain.policies import CapturePolicy, WatchPolicy

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
integers = st.integers(-(2**63), 2**64 - 1)
counts = st.integers(0, 2**31)
naturals = st.integers(1, 2**31)
numbers = st.floats(allow_nan=False, allow_infinity=False)
shares = st.floats(0, 1)
json_values = st.recursive(
    st.none() | st.booleans() | integers | numbers | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
SCALARS: Mapping[Any, SearchStrategy[Any]] = {
    Any: json_values,
    bool: st.booleans(),
    float: numbers,
    int: integers,
    str: texts,
    type(None): st.none(),
}


def facts(kind: Any = None) -> SearchStrategy[Fact]:
    """Facts of one class, or of any class of the catalog."""
    kinds: list[Any] = [entry.cls for entry in ENTRIES] if kind is None else [kind]
    return st.one_of([values(cls) for cls in kinds])


def envelopes(kind: Any = None) -> SearchStrategy[Envelope]:
    return st.builds(
        Envelope,
        originator_id=st.uuids(),
        originator_version=naturals,
        at=st.datetimes().map(lambda at: f"{at.isoformat(timespec='microseconds')}+00:00"),
        epoch=counts,
        step=counts,
        cause=values(Cause),
        fact=facts(kind),
    )


@cache
def values(kind: Any) -> SearchStrategy[Any]:
    """Values of a declared type: a scalar, JSON, a container, a union, or an attrs class."""
    if kind in SCALARS:
        return SCALARS[kind]
    if kind in NARROWED:
        return NARROWED[kind]()
    if has(kind):
        attributes = fields(resolve_types(kind))
        return st.builds(kind, **{attribute.name: values(attribute.type) for attribute in attributes})
    return _containers(get_origin(kind), get_args(kind))


def _containers(origin: Any, parts: tuple[Any, ...]) -> SearchStrategy[Any]:
    if origin in (Union, types.UnionType):
        return st.one_of([values(part) for part in parts])
    if origin is Mapping:
        return st.dictionaries(values(parts[0]), values(parts[1]), max_size=2)
    if origin is tuple and parts[-1] is Ellipsis:
        return st.lists(values(parts[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, parts))
    raise NotImplementedError(f"no strategy for {origin}{list(parts)}")


def index_maps(size: int = 50) -> SearchStrategy[IndexMap]:
    """Gather maps over an old dimension of ``size`` entries."""
    return st.lists(st.integers(NEW, size - 1), max_size=12).map(IndexMap.of)


def alpha_schedules() -> SearchStrategy[AlphaSchedule]:
    return st.builds(
        AlphaSchedule,
        curve=st.sampled_from(list(CURVES)),
        start=shares,
        target=shares,
        epochs=st.integers(1, 99),
    )


def constraints() -> SearchStrategy[SurgeryConstraints]:
    by_type = {"int": naturals, "float": st.floats(1, 1e9)}
    return st.builds(
        SurgeryConstraints,
        **{attribute.name: by_type[_type_name(attribute.type)] for attribute in fields(SurgeryConstraints)},
    )


def _type_name(kind: Any) -> str:
    return kind if isinstance(kind, str) else kind.__name__


def decisions() -> SearchStrategy[AdaptationDecision]:
    return st.sampled_from(ADAPTATION_TYPES).flatmap(decisions_of)


def decisions_of(adaptation_type: str) -> SearchStrategy[AdaptationDecision]:
    """Valid decisions of one type, with any of the parameters that it takes."""
    drawn = {name: _parameter(kinds[0]) for name, kinds in PARAMETERS[adaptation_type].items()}
    required = REQUIRED.get(adaptation_type, ())
    return st.builds(
        AdaptationDecision,
        decision_id=texts.filter(bool),
        layer_name=texts.filter(bool),
        adaptation_type=st.just(adaptation_type),
        confidence=shares,
        urgency=shares,
        parameters=st.fixed_dictionaries(
            {name: drawn[name] for name in required},
            optional={name: drawn[name] for name in drawn if name not in required},
        ),
        reasoning=texts,
        actor=texts,
        metadata=st.dictionaries(texts, json_values, max_size=2),
        timestamp=st.none() | numbers,
    )


def _parameter(kind: type) -> SearchStrategy[Any]:
    if kind is dict:
        return st.dictionaries(texts, json_values, max_size=2)
    return st.lists(json_values, max_size=2) if kind is list else values(kind)


NARROWED: Mapping[Any, Callable[[], SearchStrategy[Any]]] = {
    AdaptationDecision: decisions,
    AlphaSchedule: alpha_schedules,
    IndexMap: index_maps,
    SurgeryConstraints: constraints,
    CapturePolicy: lambda: st.builds(
        CapturePolicy,
        before_structural_change=st.booleans(),
        every_n_epochs=st.none() | naturals,
        keep_last=st.none() | naturals,
    ),
    WatchPolicy: lambda: st.builds(
        WatchPolicy, metric=texts, mode=st.sampled_from(["max", "min"]), epochs=naturals
    ),
}
"""Classes whose validators allow less than their types."""
