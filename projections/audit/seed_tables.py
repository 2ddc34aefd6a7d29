"""Tables about seeds: their state at every version, and the steps of their lives."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Column, Double, Table

from esper_es.projections.audit.columns import count, json, of_fact, over_versions, text, version
from esper_es.projections.schema import metadata

seeds: Final = Table(
    "seeds",
    metadata,
    *over_versions(
        text("seed", "id of the seed", primary_key=True),
        text("layer", "module after which it grows"),
        text("stage", "stage of its life, by the lifecycle of the model"),
        text("kernel", "kernel that it was last given; NULL if none", nullable=True),
        json("arguments", "arguments of the kernel, a JSON object"),
        text("path", "dotted path of its module; NULL when it holds none", nullable=True),
        version("germinated_version", "fact that gave it the kernel; NULL if none"),
        text("outcome", "dormant, growing, culled or fossilized"),
        version("ended_version", "fact that culled or fossilized it; NULL: neither"),
        text("end_reason", "why it was culled; NULL: it was not", nullable=True),
    ),
    comment="seeds over versions, without alpha: see seed_alphas",
)

seed_transitions: Final = Table(
    "seed_transitions",
    metadata,
    *of_fact(),
    text("seed", "id of the seed"),
    text("change", "planted, inherited, germinated, advanced, culled or fossilized"),
    text("from_stage", "stage before; NULL for a seed just planted or inherited", nullable=True),
    text("to_stage", "stage after"),
    text("gate", "gate that was passed, e.g. G2; empty for none"),
    count("epochs_in_stage", "epochs spent in the stage before; NULL: not recorded", nullable=True),
    text("override", "why the gate was overridden; NULL: it was not", nullable=True),
    text("reason", "why it was culled; NULL: it was not", nullable=True),
    text("kernel", "kernel it was given; NULL: none", nullable=True),
    json("schedule", "ramp of alpha that starts, a JSON object; NULL: none", nullable=True),
    comment="steps of the lives of seeds",
)

gate_evidence: Final = Table(
    "gate_evidence",
    metadata,
    *of_fact(text("evidence", "name of the number", primary_key=True)),
    Column("observed", Double(), nullable=True, comment="its value; NULL: it was not given"),
    Column("required", Double(), nullable=True, comment="what the gate asked for at least; NULL: nothing"),
    comment="numbers that justified a step of a seed, one row per number",
)

seed_alphas: Final = Table(
    "seed_alphas",
    metadata,
    *of_fact(),
    text("seed", "id of the seed"),
    Column("alpha", Double(), nullable=False, comment="weight of its branch from here on, 0 to 1"),
    json("schedule", "ramp that takes the place of the seed's own, a JSON object; NULL: none", nullable=True),
    comment="weights of the branches of seeds, each time one moved",
)
