"""What the questions answer about one realistic history, the same on SQLite and PostgreSQL."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import define
from sqlalchemy import Engine, text

from esper_es.projections.audit import Answer, Audit

from .story import Teller, at_minute, tell


@define
class Story:
    """A told history and its audit."""

    teller: Teller
    audit: Audit

    def __getitem__(self, name: str) -> int:
        return self.teller.versions[name]

    def ask(self, question: str, **parameters: Any) -> Answer:
        return self.audit.ask(question, model="digits", **parameters)

    def column(self, question: str, *headings: str, **parameters: Any) -> list[Any]:
        """Some columns of an answer."""
        answer = self.ask(question, **parameters)
        places = [answer.columns.index(heading) for heading in headings]
        return [tuple(row[place] for place in places) for row in answer.rows]


@pytest.fixture(scope="module")
def story(shared_engine: Engine) -> Story:
    teller = tell(shared_engine)
    tell(shared_engine, "another")
    return Story(teller, Audit(shared_engine))


def test_the_architecture_at_a_version_is_listed_in_the_order_of_the_model(story: Story) -> None:
    rows = story.column("architecture", "part", "name", "kind", "detail", version=1)
    assert rows == [
        ("layer", "", "sequential", "{}"),
        ("layer", "first", "linear", '{"in_features": 4, "out_features": 8}'),
        ("tensor", "first.bias", "parameter float32", "[8]"),
        ("tensor", "first.weight", "parameter float32", "[8, 4]"),
        ("layer", "act", "relu", "{}"),
        ("layer", "last", "linear", '{"in_features": 8, "out_features": 2}'),
        ("tensor", "last.bias", "parameter float32", "[2]"),
        ("tensor", "last.weight", "parameter float32", "[2, 8]"),
    ]


def test_an_inserted_layer_stands_where_it_was_inserted(story: Story) -> None:
    rows = story.column("architecture", "part", "name", version=story["added extra"])
    layers = [name for part, name in rows if part == "layer"]
    assert layers == ["", "first", "extra", "a", "a.kernel", "act", "last"]


def test_the_architecture_says_sizes_and_which_facts_gave_them(story: Story) -> None:
    answer = story.ask("architecture", version=story["widened"])
    widened = story["widened"]
    assert (
        widened,
        "layer",
        "first",
        "linear",
        '{"in_features": 4, "out_features": 12}',
        60,
        240,
        1,
        widened,
    ) in (answer.rows)


@pytest.mark.parametrize(
    ("moment", "version"),
    [
        ({"at": at_minute(5)}, "widened"),
        ({"at": "2026-11-23T11:05:59+01:00"}, "widened"),
        ({"epoch": 0}, "birth"),
        ({"step": 9}, "capture"),
        ({}, "newest"),
    ],
)
def test_the_architecture_is_known_at_a_time_epoch_or_step(
    story: Story, moment: dict[str, Any], version: str
) -> None:
    versions = {
        "widened": story["widened"] + 1,
        "birth": story["birth capture"] + 1,
        "newest": story["resumed"],
        "capture": story["birth capture"],
    }
    assert story.column("architecture", "version", **moment)[0] == (versions[version],)


def test_there_is_no_architecture_before_birth(story: Story) -> None:
    assert story.ask("architecture", at="2020-01-01").rows == ()


def test_the_facts_of_a_version_leave_out_those_that_were_rolled_back(story: Story) -> None:
    told = [version for (version,) in story.column("facts", "version")]
    assert told == [
        *range(1, story["widened"] + 1),
        story["went back for good"],
        story["resumed"],
    ]


def test_the_facts_of_a_version_that_was_later_rolled_back_are_known_too(story: Story) -> None:
    told = [version for (version,) in story.column("facts", "version", version=story["germinated c"])]
    assert told == [
        *range(1, story["before the layer"] + 1),
        *range(story["went back"], story["germinated c"] + 1),
    ]


def test_a_fact_is_told_with_its_moment_and_its_reason(story: Story) -> None:
    rows = story.ask("facts", version=story["widened"]).rows
    assert rows[-1] == (
        story["widened"],
        "surgery.layer_width_modified",
        "first",
        5,
        1,
        10,
        at_minute(5),
        "tamiyo",
        "plateau",
    )


def test_the_cause_of_a_fact_leads_back_to_its_decision(story: Story) -> None:
    rows = story.column(
        "cause",
        "steps back",
        "fact",
        "actor",
        "reasoning",
        "decided to",
        "code commit",
        fact=story["widened"],
    )
    assert rows == [
        (0, "surgery.layer_width_modified", "tamiyo", "plateau", "add_neurons at first", "abc123"),
        (1, "decision.received", "tamiyo", "plateau", "add_neurons at first", "abc123"),
    ]


def test_seeds_are_told_with_how_each_ended(story: Story) -> None:
    back = story["went back for good"]
    assert story.ask("seeds").rows == (
        (
            "a",
            "first",
            "mlp",
            story["planted a"],
            story["germinated a"],
            "FOSSILIZED",
            "fossilized",
            story["fossilized a"],
            None,
            back,
        ),
        (
            "b",
            "last",
            "mlp",
            story["planted b"],
            story["germinated b"],
            "PRUNED",
            "culled",
            story["culled b"],
            "no gain",
            back,
        ),
        (
            "c",
            "first",
            "mlp",
            story["planted c"],
            story["germinated c"],
            "GERMINATED",
            "rolled back",
            back,
            "resume for it",
            back,
        ),
    )


def test_blame_names_the_fact_that_added_each_module(story: Story) -> None:
    rows = story.column("blame", "path", "added by version", "fact", "actor", version=story["added extra"])
    assert rows == [
        ("a", story["germinated a"], "seed.germinated", "ada"),
        ("a.kernel", story["germinated a"], "seed.germinated", "ada"),
        ("extra", story["added extra"], "surgery.layer_added", "ada"),
    ]


def test_blame_can_be_narrowed_to_a_path(story: Story) -> None:
    rows = story.column("blame", "path", version=story["added extra"], path="a")
    assert rows == [("a",), ("a.kernel",)]


def test_blame_after_a_rollback_still_names_the_fact_that_added_a_module(story: Story) -> None:
    rows = story.column("blame", "path", "added by version", version=story["went back"])
    assert rows == [("a", story["germinated a"]), ("a.kernel", story["germinated a"])]


def test_blame_finds_nothing_once_all_was_rolled_back(story: Story) -> None:
    assert story.ask("blame").rows == ()


def test_promotions_come_with_evidence_threshold_and_window(story: Story) -> None:
    rows = story.column(
        "promotions",
        "version",
        "subject",
        "to",
        "gate",
        "evidence",
        "observed",
        "required",
        "window in epochs",
    )
    assert (story["fossilized a"], "seed a", "FOSSILIZED", "G5", "contribution", 0.125, 0.0, 1) in rows


def test_a_surgery_kept_after_its_trial_is_a_promotion(story: Story) -> None:
    subject = f"modify_layer_width of version {story['widened']}"
    rows = story.column(
        "promotions", "subject", "to", "gate", "evidence", "observed", "required", "window in epochs"
    )
    assert rows[0] == (subject, "kept", "watch", "score of val_acc", 1.5, 0.9, 2)


def test_promotions_say_whether_a_rollback_undid_them(story: Story) -> None:
    assert {undone for (undone,) in story.column("promotions", "undone")} == {"yes"}


def test_overridden_gates_are_told_with_who_did_it(story: Story) -> None:
    rows = story.column("overrides", "version", "seed", "gate", "override", "actor")
    assert rows == [(story["blending a"], "a", "G2", "the demo is tomorrow", "ada")]


def test_rollbacks_say_what_training_was_discarded(story: Story) -> None:
    rows = story.column(
        "rollbacks", "version", "to version", "triggered by", "epochs discarded", "steps discarded"
    )
    assert rows == [
        (story["went back"], story["before the layer"], "asked", 1, 10),
        (story["went back for good"], story["widened"], "resume", 8, 80),
    ]


def test_rollback_proofs_compare_with_the_capture(story: Story) -> None:
    rows = story.column("rollback-proofs", "version", "verdict", "measured", "manifest of the capture")
    assert rows == [
        (story["went back"], "equal", "blake3:good", "blake3:good"),
        (
            story["went back for good"],
            "not comparable: the target is a capture and edits after it",
            "blake3:wide",
            "blake3:narrow",
        ),
    ]


def test_optimizer_moments_of_a_surgery_are_all_accounted_for(story: Story) -> None:
    rows = story.column("optimizer", "tensor", "effect", version=story["widened"])
    assert rows == [
        ("first.bias", "resized"),
        ("first.weight", "resized"),
        ("last.weight", "resized"),
        ("last.bias", "untouched"),
    ]


def test_the_environment_of_a_fact_is_that_of_the_process_that_recorded_it(story: Story) -> None:
    before = story.column("environment", "torch", "deterministic", fact=story["went back"])
    after = story.column("environment", "torch", "deterministic", fact=story["resumed"])
    assert (before, after) == ([("2.6.0", "yes")], [("2.7.0", "yes")])


def test_failures_say_why_and_whether_the_state_was_restored(story: Story) -> None:
    rows = story.column("failures", "version", "operation", "target", "check", "state restored")
    assert rows == [
        (story["refused"], "add_layer", "extra", "max_layers_to_add", "yes"),
        (
            story["went back for good"],
            "training",
            f"version {story['widened']}",
            "interrupted",
            "yes, not compared",
        ),
    ]


def test_sizes_say_what_a_surgery_added_and_how_long_it_took(story: Story) -> None:
    rows = story.column("sizes", "version", "parameters", "bytes", "milliseconds", "output difference")
    assert rows[0] == (story["widened"], 28, 112, 12.5, 0.0)


def test_every_answer_has_a_heading_for_every_column(story: Story) -> None:
    answers = [story.ask(q.name, **needed(q.parameters)) for q in story.audit.questions()]
    assert [
        answer.question.name
        for answer in answers
        if {len(row) for row in answer.rows} - {len(answer.columns)}
    ] == []


def test_an_answer_can_be_had_again_from_its_sql(story: Story, shared_engine: Engine) -> None:
    answer = story.ask("blame", version=story["added extra"])
    with shared_engine.connect() as connection:
        rows = connection.execute(text(answer.sql), dict(answer.parameters)).all()
    assert tuple(map(tuple, rows)) == answer.rows


def needed(parameters: Any) -> dict[str, Any]:
    return {parameter.name: 1 for parameter in parameters if parameter.required and parameter.name != "model"}
