"""Tables about changes of structure: what was asked, what it did, and how it stood its trial."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Boolean, Column, Double, Table

from esper_es.projections.audit.columns import count, json, of_fact, text, version
from esper_es.projections.schema import metadata

surgeries: Final = Table(
    "surgeries",
    metadata,
    *of_fact(),
    text("operation", "what was asked for, e.g. add_layer or germinate_seed"),
    text("target", "layer or seed it was about"),
    text("outcome", "success or refused"),
    json("details", "what was done, or asked for if it was refused; a JSON object"),
    text("check_name", "rule or validator that refused it; NULL: none did", nullable=True),
    text("reason", "why it was refused, for a person; NULL: it was not", nullable=True),
    Column(
        "state_restored",
        Boolean(),
        nullable=True,
        comment="of a refusal: whether the model was found identical afterwards; NULL: it was never touched",
    ),
    Column(
        "output_difference",
        Double(),
        nullable=True,
        comment="largest change of an example output over the largest output; NULL: not comparable",
    ),
    count("parameters_before", "scalar parameters before; NULL if refused", nullable=True),
    count("parameters_after", "scalar parameters after; NULL if refused", nullable=True),
    count("bytes_before", "bytes of parameters and buffers before; NULL if refused", nullable=True),
    count("bytes_after", "bytes of parameters and buffers after; NULL if refused", nullable=True),
    count("memory_bytes", "estimated training memory after, bytes; NULL if refused", nullable=True),
    count("graph_depth", "parametrised operations on the longest path after; NULL if refused", nullable=True),
    Column(
        "duration_ms",
        Double(),
        nullable=True,
        comment="milliseconds from the call to just before the commit; NULL if refused",
    ),
    version("base_capture_version", "capture of the state before; NULL if none was made"),
    text("actor", "who caused it, as in history"),
    text("reasoning", "why, as in history"),
    text("decision_id", "decision that led to it, as in history; NULL if none", nullable=True),
    comment="changes of structure, done and refused, those of seeds included",
)

optimizer_effects: Final = Table(
    "optimizer_effects",
    metadata,
    *of_fact(text("tensor", "name of the tensor in the state dict", primary_key=True)),
    text("effect", "resized, new, removed, or kept (the tensor moved or was scaled)"),
    comment="what became of optimizer state at a change of structure; tensors not named kept theirs untouched",
)

validator_verdicts: Final = Table(
    "validator_verdicts",
    metadata,
    *of_fact(text("validator", "name of the validator", primary_key=True)),
    text("verdict", "what it said"),
    comment="verdicts of the validators on a change of structure",
)

watches: Final = Table(
    "watches",
    metadata,
    *of_fact(),
    version("subject_version", "surgery on trial", nullable=False),
    text("metric", "metric that judges it"),
    text("mode", "max: more is better; min: less is"),
    Column("baseline", Double(), nullable=False, comment="value of the metric before the surgery"),
    Column(
        "minimum_score",
        Double(),
        nullable=False,
        comment="share of the baseline below which it is undone at once",
    ),
    Column(
        "required_score",
        Double(),
        nullable=False,
        comment="share of the baseline that it must have when the window ends",
    ),
    count("until_epoch", "epoch at which the window ends; a rollback into it moves the end along"),
    comment="surgeries put on trial",
)

watch_verdicts: Final = Table(
    "watch_verdicts",
    metadata,
    *of_fact(),
    version("subject_version", "surgery that was on trial", nullable=False),
    text("outcome", "kept, rolled_back, or failed_but_kept (no capture was left to go back to)"),
    Column("observed", Double(), nullable=False, comment="value of the metric that decided"),
    Column("score", Double(), nullable=False, comment="its share of the baseline"),
    text("reason", "which threshold decided"),
    comment="ends of the trials; a trial without a row here is still on, or was rolled back",
)
