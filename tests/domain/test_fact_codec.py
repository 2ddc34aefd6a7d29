"""Facts to rows and back."""

from __future__ import annotations

import json
import math
from types import MappingProxyType
from typing import Any, get_args

import pytest
from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper_es.domain import catalog
from esper_es.domain.architecture import Architecture, ModuleNode
from esper_es.domain.canonical import Json
from esper_es.domain.catalog import BY_CLASS, ENTRIES
from esper_es.domain.edits import EDIT_NAMES, Edit, SetAttribute
from esper_es.domain.envelope import Envelope
from esper_es.domain.errors import IntegrityFailure, LedgerError, UsageError
from esper_es.domain.facts import (
    CapturesReleased,
    EpochEnded,
    Fact,
    LayerWidthModified,
    ModelRegistered,
    SeedAdvanced,
    SurgeryRefused,
    TrainingContinued,
)
from esper_es.domain.index_map import IndexMap
from esper_es.ledger.codec import decode, encode

from .sample_facts import FOLDED, MODEL, SAMPLES, enclosed
from .strategies import envelopes

EPOCH = EpochEnded(epoch=1, step=10, metrics={"val_acc": 0.5})
REFUSED = SurgeryRefused(operation="add_layer", target="a", arguments={}, check="c", reason="r")


def current_topic(fact: Fact) -> str:
    entry = BY_CLASS[type(fact)]
    return f"{entry.name}/{entry.schema}"


def read(envelope: Envelope, topic: str, state: bytes) -> Envelope:
    return decode(envelope.originator_id, envelope.originator_version, topic, state)


def registered_with(architecture: Architecture) -> ModelRegistered:
    [born] = (fact for fact in SAMPLES if isinstance(fact, ModelRegistered))
    return evolve(born, base=evolve(born.base, architecture=architecture))


def body_of(fact: Fact) -> dict[str, Json]:
    _, state = encode(enclosed(fact))
    body: dict[str, Json] = json.loads(state)
    return body


def read_body(body: Json, topic: str) -> Envelope:
    return decode(MODEL, 23, topic, json.dumps(body).encode())


@pytest.mark.parametrize("kind", [entry.cls for entry in ENTRIES], ids=lambda kind: kind.__name__)
@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_what_is_read_equals_what_was_written(kind: type[Fact], data: st.DataObject) -> None:
    envelope = data.draw(envelopes(kind))
    assert read(envelope, *encode(envelope)) == envelope


@pytest.mark.parametrize("fact", SAMPLES, ids=lambda fact: type(fact).__name__)
def test_a_read_fact_can_be_written_to_the_same_bytes(fact: Fact) -> None:
    envelope = enclosed(fact)
    assert encode(read(envelope, *encode(envelope))) == encode(envelope)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: str(entry.name))
def test_a_fact_lives_in_the_module_that_its_stored_name_begins_with(entry: catalog.Entry) -> None:
    subject, _, _ = entry.name.partition(".")
    assert entry.cls.__module__ == f"esper_es.domain.facts.{subject}"


def test_the_topic_is_the_owned_name_and_the_schema() -> None:
    topic, _ = encode(enclosed(EPOCH))
    assert topic == "clock.epoch_ended/1"


def test_the_body_holds_moment_clock_cause_and_fact() -> None:
    assert list(body_of(EPOCH)) == ["at", "epoch", "step", "cause", "fact"]


def test_class_names_never_reach_the_row() -> None:
    rows = b"".join(encode(enclosed(fact))[1] for fact in SAMPLES).decode()
    names = [kind.__name__ for kind in (*BY_CLASS, *EDIT_NAMES)]
    assert [name for name in names if name in rows] == []


def test_the_catalog_knows_every_fact() -> None:
    assert set(BY_CLASS) == set(get_args(Fact))


def test_every_edit_has_its_own_stored_name() -> None:
    assert set(EDIT_NAMES) == set(get_args(Edit))
    assert len(set(EDIT_NAMES.values())) == len(EDIT_NAMES)


def test_a_tuple_inside_json_comes_back_as_a_list() -> None:
    envelope = enclosed(evolve(REFUSED, arguments={"kernel_size": (3, 3)}))
    assert read(envelope, *encode(envelope)).fact == evolve(REFUSED, arguments={"kernel_size": [3, 3]})


def test_any_mapping_is_written_as_an_object() -> None:
    envelope = enclosed(evolve(REFUSED, arguments=MappingProxyType({"width": 3})))
    assert read(envelope, *encode(envelope)).fact == evolve(REFUSED, arguments={"width": 3})


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "place",
    [
        lambda number: evolve(REFUSED, arguments={"deep": [{"x": number}]}),
        lambda number: SeedAdvanced(
            seed="a", from_stage="x", stage="y", edits=(SetAttribute("a", "p", number),)
        ),
        lambda number: registered_with(Architecture({"": ModuleNode("norm", {"eps": number})})),
    ],
    ids=["argument", "edit", "architecture"],
)
def test_a_number_that_is_not_finite_is_refused_wherever_it_is(place: Any, number: float) -> None:
    with pytest.raises(UsageError, match="finite numbers only"):
        encode(enclosed(place(number)))


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1])
def test_an_integer_beyond_64_bits_is_refused(number: int) -> None:
    with pytest.raises(UsageError, match=r"fact\.arguments\['n'\] is .* beyond 64 bits"):
        encode(enclosed(evolve(REFUSED, arguments={"n": number})))


@pytest.mark.parametrize("number", [2**64 - 1, -(2**63)])
def test_an_integer_of_64_bits_is_kept(number: int) -> None:
    envelope = enclosed(evolve(REFUSED, arguments={"n": number}))
    assert read(envelope, *encode(envelope)) == envelope


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({1: "x"}, r"fact\.arguments has the key 1; keys are strings"),
        ({"a": {None: 1}}, r"fact\.arguments\['a'\] has the key None; keys are strings"),
        ({"layer": object()}, r"fact\.arguments\['layer'\] is a object; facts hold JSON values only"),
        ({"text": "\ud800"}, "cannot be stored: str is not valid UTF-8"),
    ],
)
def test_what_json_cannot_carry_is_refused(arguments: dict[str, Json], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        encode(enclosed(evolve(REFUSED, arguments=arguments)))


def test_a_value_that_holds_itself_is_refused() -> None:
    arguments: dict[str, Json] = {}
    arguments["self"] = arguments
    with pytest.raises(UsageError, match="nested too deep"):
        encode(enclosed(evolve(REFUSED, arguments=arguments)))


def test_a_field_of_a_wrong_type_is_refused_before_it_is_stored() -> None:
    wrong: Any = "ten"
    with pytest.raises(UsageError, match=r"fact\.step: must be an integer, got 'ten'"):
        encode(enclosed(TrainingContinued(step=wrong)))


def test_a_class_without_a_stored_name_is_refused() -> None:
    unknown: Any = object()
    with pytest.raises(UsageError, match="object has no stored name"):
        encode(enclosed(unknown))


def test_an_unknown_name_is_a_newer_release() -> None:
    with pytest.raises(LedgerError, match="upgrade esper-es"):
        read_body(body_of(EPOCH), "clock.decade_ended/1")


def test_a_newer_schema_is_a_newer_release() -> None:
    with pytest.raises(LedgerError, match=r"version 2 of fact 'clock\.epoch_ended'"):
        read_body(body_of(EPOCH), "clock.epoch_ended/2")


@pytest.mark.parametrize("topic", ["clock.epoch_ended", "clock.epoch_ended/0", "clock.epoch_ended/x", ""])
def test_a_topic_without_a_schema_is_damage(topic: str) -> None:
    with pytest.raises(IntegrityFailure, match="not '<name>/<schema version>'"):
        read_body(body_of(EPOCH), topic)


@pytest.mark.parametrize("state", [b"", b"{", b"\xff", b'{"at": NaN}', b"[" * 2000])
def test_a_body_that_is_not_json_is_damage(state: bytes) -> None:
    with pytest.raises(IntegrityFailure, match=f"version 23 of model {MODEL} .* not JSON"):
        decode(MODEL, 23, "clock.epoch_ended/1", state)


@pytest.mark.parametrize("body", [None, [], "text", 3])
def test_a_body_that_is_not_an_object_is_damage(body: Json) -> None:
    with pytest.raises(IntegrityFailure, match="the body: must be an object"):
        read_body(body, "clock.epoch_ended/1")


@pytest.mark.parametrize("fact", SAMPLES, ids=lambda fact: type(fact).__name__)
def test_a_missing_field_is_damage_even_if_it_has_a_default(fact: Fact) -> None:
    for name in body_of(fact)["fact"]:
        body = body_of(fact)
        del body["fact"][name]
        with pytest.raises(IntegrityFailure, match=rf"fact: .*missing \['{name}'\]"):
            read_body(body, current_topic(fact))


@pytest.mark.parametrize("fact", SAMPLES, ids=lambda fact: type(fact).__name__)
def test_an_unknown_field_is_damage(fact: Fact) -> None:
    body = body_of(fact)
    body["fact"]["surprise"] = 1
    with pytest.raises(IntegrityFailure, match=r"fact: .*unknown \['surprise'\]"):
        read_body(body, current_topic(fact))


def replaced(value: Json, path: tuple[str | int, ...], new: Json) -> Json:
    """Return JSON with the value at ``path`` replaced."""
    if not path:
        return new
    changed = value.copy()
    changed[path[0]] = replaced(value[path[0]], path[1:], new)
    return changed


@pytest.mark.parametrize(
    ("name", "path", "new", "message"),
    [
        ("clock.epoch_ended", ("epoch",), "1", r"epoch: must be an integer, got '1'"),
        ("clock.epoch_ended", ("at",), None, r"at: must be a string, got None"),
        ("clock.epoch_ended", ("cause", "confidence"), "high", r"cause\.confidence: must be a number"),
        ("clock.epoch_ended", ("fact", "epoch"), True, r"fact\.epoch: must be an integer, got True"),
        ("clock.epoch_ended", ("fact", "step"), 1.5, r"fact\.step: must be an integer, got 1\.5"),
        ("clock.epoch_ended", ("fact", "metrics"), [], r"fact\.metrics: must be an object"),
        (
            "clock.epoch_ended",
            ("fact", "metrics", "loss"),
            None,
            r"fact\.metrics\['loss'\]: must be a number",
        ),
        ("seed.planted", ("fact", "seed"), 3, r"fact\.seed: must be a string, got 3"),
        ("surgery.refused", ("fact", "state_restored"), 1, r"fact\.state_restored: must be true or false"),
        ("state.captures_released", ("fact", "versions"), "12", r"fact\.versions: must be a list"),
        ("state.captures_released", ("fact", "versions", 1), "5", r"fact\.versions\[1\]: must be an integer"),
        ("model.registered", ("fact", "forked_from"), ["parent"], r"fact\.forked_from: "),
        ("model.registered", ("fact", "forked_from"), {"parent": 1, "x": 2}, r"fact\.forked_from"),
        ("model.registered", ("fact", "constraints", "max_graph_depth"), 0, "at least 1"),
        (
            "model.registered",
            ("fact", "base", "architecture", "nodes", "first", 2, "weight"),
            [[8, 4], "float32"],
            r"architecture\.nodes\['first'\]\.tensors\['weight'\]: must be a list of shape, dtype, role",
        ),
        (
            "model.registered",
            ("fact", "base", "architecture", "nodes", "first", 2, "weight", 0, 1),
            "4",
            r"nodes\['first'\]\.tensors\['weight'\]\.shape\[1\]: must be an integer",
        ),
        (
            "surgery.layer_width_modified",
            ("fact", "edits", 0, "edit"),
            "os.system",
            r"fact\.edits\[0\]: must be an edit, one of add_module",
        ),
        (
            "surgery.layer_width_modified",
            ("fact", "edits", 0, "gather", 0),
            [0, 0],
            r"fact\.edits\[0\]\.gather: a run is",
        ),
        (
            "surgery.layer_width_modified",
            ("fact", "edits", 0, "gather", 0, 1),
            "8",
            r"fact\.edits\[0\]\.gather\[0\]\[1\]: must be an integer",
        ),
        (
            "decision.received",
            ("fact", "decision", "adaptation_type"),
            "explode",
            r"fact\.decision: unknown adaptation_type 'explode'",
        ),
    ],
)
def test_a_damaged_value_is_refused_naming_its_place(
    name: str, path: tuple[str | int, ...], new: Json, message: str
) -> None:
    sample = next(fact for fact in SAMPLES if BY_CLASS[type(fact)].name == name)
    topic = current_topic(sample)
    with pytest.raises(IntegrityFailure, match=rf"version 23 of model {MODEL} \({topic}\): .*{message}"):
        read_body(replaced(body_of(sample), path, new), topic)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(sample=st.sampled_from([*SAMPLES, FOLDED]), data=st.data())
def test_any_damage_is_an_error_of_this_package_or_harmless(sample: Fact, data: st.DataObject) -> None:
    """Put some JSON somewhere in a body: either it reads as a fact that can be written, or it is damage."""
    body, path = body_of(sample), list[Any]()
    at: Json = body
    while isinstance(at, (dict, list)) and at and (not path or data.draw(st.booleans())):
        path.append(data.draw(st.sampled_from(list(at) if isinstance(at, dict) else list(range(len(at))))))
        at = at[path[-1]]
    new: Json = data.draw(st.sampled_from([None, True, -3, 0, 7, 0.5, "", "x", [], {}, [1], {"x": 1}]))
    try:
        envelope = read_body(replaced(body, tuple(path), new), current_topic(sample))
    except IntegrityFailure:
        return
    encode(envelope)


class TestUpcasting:
    """An old row is carried forward, step by step, to the schema that this release writes."""

    @pytest.fixture(autouse=True)
    def _third_schema(self, monkeypatch: pytest.MonkeyPatch) -> None:
        entry = evolve(catalog.BY_NAME["state.captures_released"], schema=3)
        monkeypatch.setattr(catalog, "BY_NAME", {**catalog.BY_NAME, entry.name: entry})
        upcasters = {
            (entry.name, 1): lambda body: {"later": body["early"]},
            (entry.name, 2): lambda body: {"versions": body["later"]},
        }
        monkeypatch.setattr(catalog, "UPCASTERS", upcasters)

    def test_every_step_is_taken(self) -> None:
        body = {**body_of(CapturesReleased(versions=(1,))), "fact": {"early": [7]}}
        assert read_body(body, "state.captures_released/1").fact == CapturesReleased(versions=(7,))

    def test_a_row_of_the_middle_takes_the_rest_of_the_way(self) -> None:
        body = {**body_of(CapturesReleased(versions=(1,))), "fact": {"later": [7]}}
        assert read_body(body, "state.captures_released/2").fact == CapturesReleased(versions=(7,))

    def test_a_body_that_the_old_schema_never_had_is_damage(self) -> None:
        body = {**body_of(CapturesReleased(versions=(1,))), "fact": {"later": [7]}}
        with pytest.raises(IntegrityFailure, match="does not fit schema 1"):
            read_body(body, "state.captures_released/1")

    def test_a_missing_upcaster_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(catalog, "UPCASTERS", {})
        with pytest.raises(LedgerError, match="no upcaster from version 1"):
            read_body(body_of(CapturesReleased(versions=(1,))), "state.captures_released/1")


def width_of_schema_2(kept_units: Json) -> dict[str, Json]:
    """A body of the second schema, which listed the units that stayed one by one."""
    [sample] = (fact for fact in SAMPLES if isinstance(fact, LayerWidthModified))
    body = body_of(evolve(sample, edits=()))
    return {**body, "fact": {**body["fact"], "kept_units": kept_units}}


@pytest.mark.parametrize("kept", [None, [], [0], [5, 2, 3], [0, 1, 2, 7]])
def test_units_once_listed_one_by_one_are_read_as_runs(kept: list[int] | None) -> None:
    fact = read_body(width_of_schema_2(kept), "surgery.layer_width_modified/2").fact
    assert isinstance(fact, LayerWidthModified)
    assert fact.kept_units == (None if kept is None else IndexMap.of(kept))


@pytest.mark.parametrize("kept", [3, ["a"], [-5], [[0, 1]]])
def test_listed_units_that_are_no_ordinals_are_damage(kept: Json) -> None:
    with pytest.raises(IntegrityFailure, match="does not fit schema 2"):
        read_body(width_of_schema_2(kept), "surgery.layer_width_modified/2")
