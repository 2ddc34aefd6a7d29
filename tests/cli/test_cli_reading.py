"""``models``, ``log``, ``show``: what the facts say."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from program_runs import Program
from recorded_history import ROLLBACK, WIDENING, record_narrowing, record_pair

from esper_es.cli.locations import locate
from esper_es.cli.reading import reading
from esper_es.ledger.codec import encode


def versions(document: dict[str, object]) -> list[int]:
    facts = document["facts"]
    assert isinstance(facts, list)
    return [fact["version"] for fact in facts]


def test_models_lists_each_model_with_its_newest_version(empty_directory: Path, esper: Program) -> None:
    record_pair(empty_directory)
    listed = esper("models", "--json").json["models"]
    assert [(m["name"], m["version"], m["parameters"]) for m in listed] == [
        ("first", 2, 67),
        ("second", 2, 67),
    ]


def test_log_lists_every_fact_with_the_newest_last(directory: Path, esper: Program) -> None:
    assert versions(esper("log", "--json").json) == list(range(1, ROLLBACK + 1))


def test_log_names_facts_as_they_are_stored(directory: Path, esper: Program) -> None:
    assert "6  surgery.layer_width_modified  20" in esper("log").out


def test_log_says_who_and_why(directory: Path, esper: Program) -> None:
    assert "by alice: more [bold]capacity[/bold]" in esper("log", "--since", "6").out


def test_a_fact_on_one_line_takes_one_line(directory: Path, esper: Program) -> None:
    lines = esper("log", "--oneline").out.splitlines()
    assert (
        lines[WIDENING - 1]
        == " 6 surgery.layer_width_modified widened 0 from 8 to 12: +32 parameters, functio…"
    )
    assert len(lines) == ROLLBACK


def test_log_starts_at_a_version(directory: Path, esper: Program) -> None:
    assert versions(esper("log", "--since", "16", "--json").json) == [16, 17, 18]


def test_log_starts_at_a_time(directory: Path, esper: Program) -> None:
    facts = esper("log", "--json").json["facts"]
    started = facts[10]["at"]
    expected = [f["version"] for f in facts if f["at"] >= started]
    assert versions(esper("log", "--since", started, "--json").json) == expected


def test_a_time_without_zone_is_utc(directory: Path, esper: Program) -> None:
    facts = esper("log", "--json").json["facts"]
    naive = facts[10]["at"].removesuffix("+00:00")
    assert versions(esper("log", "--since", naive, "--json").json)[-1] == ROLLBACK
    assert len(versions(esper("log", "--since", naive, "--json").json)) < ROLLBACK


def test_a_limit_keeps_the_newest(directory: Path, esper: Program) -> None:
    assert versions(esper("log", "--limit", "2", "--json").json) == [17, 18]


def test_what_is_neither_version_nor_time_is_misuse(directory: Path, esper: Program) -> None:
    answer = esper("log", "--since", "yesterday")
    assert answer.code == 2
    assert "2026-11-23T10:00" in answer.err


def test_show_gives_cause_edits_effects_and_digests(directory: Path, esper: Program) -> None:
    out = esper("show", str(WIDENING)).out
    for expected in (
        "decision    d-1",
        "caused by   4  epoch 1 ended at step 2: val_acc 0.5",
        "1  resize 0.weight along dimension 0 to 12 entries, 8 kept and 4 new",
        "set 0 out_features to 12",
        "parameters               67 -> 99 (+32)",
        "optimizer of 0.weight    resized",
        "0.weight  b3:",
    ):
        assert expected in out


def test_show_as_json_is_the_fact_as_stored(directory: Path, esper: Program) -> None:
    document = esper("show", str(WIDENING), "--json").json
    with reading(locate("runs.db", None, {}, directory)) as source:
        _, body = encode(source.history("digits")[WIDENING - 1])
    assert {key: document[key] for key in orjson.loads(body)} == orjson.loads(body)


def test_show_lists_the_units_that_stayed_one_by_one(empty_directory: Path, esper: Program) -> None:
    narrowing, kept = record_narrowing(empty_directory)
    shown = " ".join(esper("show", str(narrowing)).out.split())
    assert f"kept_units {kept} dimension 0" in shown


def test_show_tells_what_a_map_does_not_where_it_is_stored(empty_directory: Path, esper: Program) -> None:
    narrowing, _ = record_narrowing(empty_directory)
    assert "index_maps" in esper("show", str(narrowing), "--json").json["fact"]
    shown = esper("show", str(narrowing)).out
    assert "index_maps" not in shown
    assert "resize 0.weight along dimension 0 to 20 entries, 20 kept and 0 new" in " ".join(shown.split())


def test_show_names_the_hash_of_the_fact_before(directory: Path, esper: Program) -> None:
    assert esper("show", "6", "--json").json["previous_hash"] == esper("show", "5", "--json").json["hash"]


def test_a_version_that_is_not_there_is_misuse(directory: Path, esper: Program) -> None:
    answer = esper("show", "99")
    assert (answer.code, answer.err) == (2, "error: model 'digits' has no version 99; it has 1 to 18\n")


@pytest.mark.parametrize("command", ["log", "tree", "blame", "replay"])
def test_several_models_want_a_name(empty_directory: Path, esper: Program, command: str) -> None:
    record_pair(empty_directory)
    answer = esper(command)
    assert answer.code == 2
    assert "first, second" in answer.err


def test_an_unknown_model_is_answered_with_those_there_are(directory: Path, esper: Program) -> None:
    answer = esper("log", "--model", "digit")
    assert (answer.code, answer.err) == (2, "error: the log knows no model 'digit'; it knows: digits\n")
