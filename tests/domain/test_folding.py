"""What edits have in common is stored once, and comes back edit by edit."""

from __future__ import annotations

import json
from typing import Any

import pytest
from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from esper_es.domain.canonical import Json
from esper_es.domain.edits import (
    Edit,
    Fill,
    RemoveModule,
    ResizeTensor,
    ScaleSlice,
    ScaleTensor,
    SetAttribute,
    SetScalar,
)
from esper_es.domain.errors import IntegrityFailure
from esper_es.domain.facts import LayerWidthModified
from esper_es.domain.index_map import IndexMap
from esper_es.ledger.codec import decode, encode
from esper_es.ledger.number_runs import numbers_of, runs_of

from .sample_facts import FOLDED, MODEL, enclosed
from .strategies import index_maps

TOPIC = "surgery.layer_width_modified/4"
numbers = st.integers(0, 12) | st.integers(0, 2**40)
pieces = st.sampled_from(
    ["h", "%d", "01", "{i}", "{", "weight", "", "\N{GREEK SMALL LETTER ALPHA}", "-1", "٣"]
)
names = st.lists(pieces | numbers.map(str), max_size=9).map(".".join) | st.builds(
    "blocks.{}.{}.weight".format, st.integers(0, 3), st.sampled_from(["fc", 0, 1])
)
maps = st.sampled_from([IndexMap(((0, 8), (-1, 2))), IndexMap.of(range(0, 20, 2))]) | index_maps()
fills = st.none() | st.builds(
    Fill,
    st.sampled_from(["kaiming", "zeros"]),
    st.sampled_from([{}, {"fan_in": 8.0}]),
    st.integers(0, 2),
    st.none() | st.sampled_from(["b3:1", "b3:2"]),
    st.none() | st.integers(0, 2),
)
values = st.sampled_from([1, 1.0, True, "1", None, [7], {"seed": 1}])
edits: SearchStrategy[Edit] = st.one_of(
    st.builds(ResizeTensor, names, st.integers(0, 1), maps, fills),
    st.builds(ScaleTensor, names, st.sampled_from([0.5, 2.0])),
    st.builds(ScaleSlice, names, st.just(0), maps, st.just(0.5)),
    st.builds(SetScalar, names, st.just(0.5)),
    st.builds(SetAttribute, names, st.sampled_from(["nf", "series"]), values),
    st.builds(RemoveModule, names),
)


def widening(*edits: Edit, kept_units: IndexMap | None = None) -> LayerWidthModified:
    return evolve(FOLDED, edits=edits, kept_units=kept_units)


def stored(fact: LayerWidthModified) -> dict[str, Json]:
    body: dict[str, Json] = json.loads(encode(enclosed(fact))[1])
    return body


def read(body: Json) -> LayerWidthModified:
    fact = decode(MODEL, 23, TOPIC, json.dumps(body).encode()).fact
    assert isinstance(fact, LayerWidthModified)
    return fact


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(edits, max_size=40), st.none() | maps)
def test_every_edit_comes_back_in_its_place(changes: list[Edit], kept: IndexMap | None) -> None:
    fact = widening(*changes, kept_units=kept)
    assert read(stored(fact)) == fact


@given(st.lists(edits, max_size=40))
def test_a_read_fact_is_stored_as_it_was(changes: list[Edit]) -> None:
    body = stored(widening(*changes))
    assert stored(read(body)) == body


@given(st.lists(st.sampled_from([0, 1, 2, 3, 7, 2**40]) | st.integers(), max_size=30))
def test_runs_lose_nothing(drawn: list[int]) -> None:
    assert numbers_of(runs_of(drawn), len(drawn), "here") == drawn


@given(st.integers(0, 99), st.integers(-3, 12), st.integers(3, 99))
def test_equal_steps_are_one_run(first: int, step: int, count: int) -> None:
    assert len(runs_of([first + step * turn for turn in range(count)])) == 1


def test_edits_that_differ_in_a_number_are_one_series() -> None:
    edits = stored(widening(*(SetAttribute(f"h.{n}.fc", "nf", 8) for n in range(12))))["fact"]["edits"]
    assert edits == [
        {
            "edit": "set_attribute",
            "path": "h.{i}.fc",
            "name": "nf",
            "value": 8,
            "series": {"at": [[0, 12]], "i": [[0, 12]]},
        }
    ]


def test_names_may_differ_in_several_numbers() -> None:
    changes = [ScaleTensor(f"layers.{n}.experts.{m}.weight", 0.5) for n in range(2) for m in range(3)]
    (series,) = stored(widening(*changes))["fact"]["edits"]
    assert (series["tensor"], series["series"]) == (
        "layers.{i}.experts.{j}.weight",
        {"at": [[0, 6]], "i": [[0, 3, 0], [1, 3, 0]], "j": [[0, 3], [0, 3]]},
    )


def test_a_number_that_all_share_stays_in_the_name() -> None:
    changes = [ScaleTensor(f"layers.2.blocks.{n}.weight", 0.5) for n in range(3)]
    (series,) = stored(widening(*changes))["fact"]["edits"]
    assert series["tensor"] == "layers.2.blocks.{i}.weight"


def test_seeds_and_offsets_with_equal_steps_are_one_run() -> None:
    series = stored(FOLDED)["fact"]["edits"][1]["series"]
    assert (series["seed"], series["offset"]) == ([[90, 3, 5]], [[0, 3, 720]])


def test_seeds_without_equal_steps_stand_as_they_are() -> None:
    fills = [Fill("kaiming", {}, seed, "b3:1") for seed in (8, 1, 9, 2)]
    changes = (ResizeTensor(f"h.{n}", 0, IndexMap(((0, 1), (-1, 1))), fill) for n, fill in enumerate(fills))
    assert stored(widening(*changes))["fact"]["edits"][0]["series"]["seed"] == [8, 1, 9, 2]


def test_two_alike_are_no_series() -> None:
    changes = [ScaleTensor(f"h.{n}", 0.5) for n in range(2)]
    assert [edit["tensor"] for edit in stored(widening(*changes))["fact"]["edits"]] == ["h.0", "h.1"]


def test_a_long_map_stands_once_in_the_bytes() -> None:
    kept = IndexMap.of(range(0, 100, 2))
    body = stored(widening(ResizeTensor("a", 0, kept), ResizeTensor("b", 0, kept), kept_units=kept))
    assert json.dumps(body).count(json.dumps(list(map(list, kept.runs)))) == 1


def test_a_short_map_stands_where_it_is_used() -> None:
    gather = IndexMap(((0, 8), (-1, 2)))
    body = stored(widening(ResizeTensor("a", 0, gather), ResizeTensor("b", 0, gather)))
    assert [edit["gather"] for edit in body["fact"]["edits"]] == [[[0, 8], [-1, 2]]] * 2


def test_a_fact_that_shares_nothing_is_stored_plainly() -> None:
    fact = widening(
        ResizeTensor("a", 0, IndexMap(((0, 8), (-1, 2)))), kept_units=IndexMap.of(range(0, 100, 2))
    )
    assert "index_maps" not in stored(fact)["fact"]


effects = st.dictionaries(names, st.sampled_from(["resized", "kept"]), max_size=40)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(effects)
def test_every_tensor_keeps_its_effect(optimizer: dict[str, str]) -> None:
    fact = evolve(FOLDED, effects=evolve(FOLDED.effects, optimizer=optimizer))
    body = stored(fact)
    assert read(body) == fact
    assert stored(read(body)) == body


def test_tensors_of_one_effect_that_differ_in_a_number_are_one_entry() -> None:
    assert stored(FOLDED)["fact"]["effects"]["optimizer"] == {
        "embed.weight": "kept",
        "blocks.{i}.fc.weight": {"effect": "resized", "i": [[0, 3]]},
        "blocks.{i}.fc.bias": {"effect": "resized", "i": [[0, 3]]},
    }


def test_a_list_that_nobody_folded_is_read_too() -> None:
    body = stored(widening())
    plain = [{"edit": "scale_tensor", "tensor": f"h.{n}", "factor": 0.5} for n in range(4)]
    body["fact"]["edits"] = plain
    assert read(body).edits == tuple(ScaleTensor(f"h.{n}", 0.5) for n in range(4))


EDITS = ("fact", "edits")
OPTIMIZER = ("fact", "effects", "optimizer", "blocks.{i}.fc.bias")


def altered(path: tuple[Any, ...], new: Json) -> dict[str, Json]:
    """Return the sample's body with one value replaced, or without it where ``new`` is ``...``."""
    body = stored(FOLDED)
    at: Json = body
    for step in path[:-1]:
        at = at[step]
    if new is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = new
    return body


@pytest.mark.parametrize(
    ("path", "new", "message"),
    [
        (("fact", "index_maps"), ..., r"fact\.kept_units: must be a list, got 'index_maps\[0\]'"),
        (("fact", "index_maps"), 3, r"fact: has no map 'index_maps\[0\]'"),
        (("fact", "index_maps"), [], r"fact: has no map 'index_maps\[0\]'"),
        (("fact", "index_maps", 0), 3, r"fact\.kept_units: must be a list"),
        (("fact", "index_maps"), [[[0, 1]], [[0, 1]]], r"fact: has unknown \['index_maps'\]"),
        (("fact", "kept_units"), "index_maps[1]", r"fact: has no map 'index_maps\[1\]'"),
        (("fact", "kept_units"), "maps[0]", r"fact: has no map 'maps\[0\]'"),
        ((*EDITS, 1, "series"), 3, r"edits\[1\]\.series must be an object"),
        ((*EDITS, 1, "series", "at"), ..., r"edits\[1\]\.series\.at must be a list"),
        ((*EDITS, 1, "series", "at"), [[1, 3.0]], r"edits\[1\]\.series\.at must be a list"),
        ((*EDITS, 1, "series", "at"), [[1, True]], r"edits\[1\]\.series\.at must be a list"),
        ((*EDITS, 1, "series", "at"), [[1, 0]], r"edits\[1\]\.series\.at must be a list"),
        ((*EDITS, 1, "series", "at"), [[1, 10**12]], r"series\.at is of more than \d+ numbers"),
        ((*EDITS, 1, "series", "at"), [[1, 3, 1]], r"fact\.edits: two edits stand at one place"),
        ((*EDITS, 1, "series", "at"), [[1, 3, 30]], r"fact\.edits: two edits stand at one place"),
        ((*EDITS, 1, "series", "i"), [[0, 10**12]], r"series\.i is of more than 3 numbers"),
        ((*EDITS, 1, "series", "i"), [[0, 2]], r"is of 3 edits, but has 2 numbers"),
        ((*EDITS, 1, "series", "i"), ..., r"has numbers for \[\], the name is"),
        ((*EDITS, 1, "series", "j"), [[0, 3]], r"has numbers for \['i', 'j'\], the name is"),
        ((*EDITS, 1, "tensor"), "blocks.{i}.{i}.bias", r"has numbers for \['i'\], the name is"),
        ((*EDITS, 1, "tensor"), "blocks.{i}.{x}.bias", r"has numbers for \['i'\], the name is"),
        ((*EDITS, 1, "tensor"), 3, r"edits\[1\] is no edit that comes in series"),
        ((*EDITS, 1, "edit"), "add_module", r"edits\[1\] is no edit that comes in series"),
        ((*EDITS, 1, "edit"), "os.system", r"edits\[1\] is no edit that comes in series"),
        ((*EDITS, 1, "series", "seed"), [1, 2], r"edits\[1\]\.series\.seed must be of 3 values"),
        ((*EDITS, 1, "series", "seed"), [[1, 2]], r"edits\[1\]\.series\.seed must be of 3 values"),
        ((*EDITS, 1, "series", "seed"), [[1, 4]], r"edits\[1\]\.series\.seed is of more than 3 numbers"),
        ((*EDITS, 1, "series", "seed"), [1, [2, 2]], r"edits\[1\]\.series\.seed must be a list of \[first"),
        ((*EDITS, 1, "series", "seed"), ..., r"fill: has wrong fields: missing \['seed'\]"),
        ((*EDITS, 1, "series", "offset"), 3, r"edits\[1\]\.series\.offset must be of 3 values"),
        (
            (*OPTIMIZER, "i"),
            [[0, 10**12]],
            r"effects\.optimizer\['blocks.*'\]\.i is of more than \d+ numbers",
        ),
        ((*OPTIMIZER, "i"), ..., r"optimizer\['blocks.*'\] has numbers for \[\], the name is"),
        ((*OPTIMIZER, "i"), [[0, 1], [0, 1]], r"effects\.optimizer tells of a name twice"),
        (
            (*OPTIMIZER, "effect"),
            ...,
            r"effects\.optimizer\['blocks.0.fc.bias'\]: must be a string, got None",
        ),
        ((*EDITS, 1, "fill"), None, r"edits\[1\]\.series has columns of a fill, but there is none"),
    ],
)
def test_a_damaged_series_is_refused_naming_its_place(path: tuple[Any, ...], new: Json, message: str) -> None:
    with pytest.raises(IntegrityFailure, match=message):
        read(altered(path, new))
