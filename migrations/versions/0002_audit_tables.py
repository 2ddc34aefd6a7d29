"""The audit tables.

They are filled from the facts: in a log that holds some already, by rebuilding them from the log.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

TABLES = (
    "models",
    "history",
    "environments",
    "epochs",
    "epoch_metrics",
    "captures",
    "rollbacks",
    "decisions",
    "layers",
    "placements",
    "tensors",
    "connections",
    "shared_names",
    "seeds",
    "seed_transitions",
    "gate_evidence",
    "seed_alphas",
    "surgeries",
    "optimizer_effects",
    "validator_verdicts",
    "watches",
    "watch_verdicts",
)


def upgrade() -> None:
    create_log_tables()
    create_architecture_tables()
    create_seed_tables()
    create_surgery_tables()


def downgrade() -> None:
    for name in reversed(TABLES):
        op.drop_table(name)


def column(name: str, kind: Any, comment: str, nullable: bool = False, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=nullable, comment=comment, **options)


def model_id(comment: str = "UUID of the model") -> sa.Column[Any]:
    return column("model_id", sa.String(36), comment)


def text(name: str, comment: str, *, nullable: bool = False) -> sa.Column[Any]:
    return column(name, TEXT, comment, nullable)


def json(name: str, comment: str, *, nullable: bool = False) -> sa.Column[Any]:
    return column(name, sa.JSON(), comment, nullable)


def count(name: str, comment: str, *, nullable: bool = False) -> sa.Column[Any]:
    return column(name, sa.BigInteger(), comment, nullable)


def integer(name: str, comment: str, *, nullable: bool = False, **options: Any) -> sa.Column[Any]:
    return column(name, sa.Integer(), comment, nullable, **options)


def double(name: str, comment: str, *, nullable: bool = False) -> sa.Column[Any]:
    return column(name, sa.Double(), comment, nullable)


def boolean(name: str, comment: str, *, nullable: bool = False) -> sa.Column[Any]:
    return column(name, sa.Boolean(), comment, nullable)


def create_index(table: str, *columns: str) -> None:
    op.create_index(op.f(f"ix_{table}_{'_'.join(columns)}"), table, columns)


def create_fact_table(
    name: str, *columns: sa.Column[Any], comment: str, further_key: tuple[str, ...] = ()
) -> None:
    """Create a table whose rows belong to one fact each."""
    op.create_table(
        name,
        model_id(),
        integer("version", "version of the model that the fact led to", autoincrement=False),
        *columns,
        sa.ForeignKeyConstraint(
            ["model_id", "version"],
            ["history.model_id", "history.version"],
            name=op.f(f"fk_{name}_model_id_version_history"),
        ),
        sa.PrimaryKeyConstraint("model_id", "version", *further_key, name=op.f(f"pk_{name}")),
        comment=comment,
    )


def create_stretch_table(name: str, key: sa.Column[Any], *columns: sa.Column[Any], comment: str) -> None:
    """Create a table whose rows hold over a stretch of versions each."""
    op.create_table(
        name,
        model_id(),
        key,
        integer("valid_from_version", "first version of which the row is true", autoincrement=False),
        integer(
            "valid_to_version",
            "first version of which it is no longer true; NULL: it is true now",
            nullable=True,
        ),
        *columns,
        integer(
            "added_by_version",
            "fact that first brought this in; a rollback that brings it back does not change it",
        ),
        integer(
            "changed_by_version",
            "fact that gave it the content of this row; a rollback that brings it back does not change it",
        ),
        integer(
            "removed_by_version",
            "fact that took it away at the end of this row; NULL: none did",
            nullable=True,
        ),
        sa.ForeignKeyConstraint(["model_id"], ["models.model_id"], name=op.f(f"fk_{name}_model_id_models")),
        sa.PrimaryKeyConstraint("model_id", key.name, "valid_from_version", name=op.f(f"pk_{name}")),
        comment=comment,
    )
    create_index(name, "model_id", "valid_to_version")


def create_log_tables() -> None:
    op.create_table(
        "models",
        model_id("UUID of the model, lower case with hyphens"),
        text("name", "name of the model, unique in the log"),
        text("registered_at", "UTC time of its first fact, ISO 8601, microseconds"),
        text(
            "blueprint", "blueprint it was built from; NULL if its architecture describes it", nullable=True
        ),
        json("blueprint_arguments", "arguments of the blueprint, a JSON object"),
        text("forked_from_name", "model it was forked from; NULL if none", nullable=True),
        integer("forked_from_version", "version it was forked from; NULL if none", nullable=True),
        count("parameters", "scalar parameters at birth, tied ones counted once"),
        count("bytes", "bytes of parameters and buffers at birth"),
        count("memory_bytes", "estimated training memory at birth, bytes"),
        json("constraints", "limits on surgery, a JSON object; NULL for none", nullable=True),
        json("capture_policy", "when its state is captured unasked, a JSON object"),
        json("watch_policy", "which metric judges surgeries, a JSON object; NULL for none", nullable=True),
        text("lifecycle", "name of the lifecycle of its seeds"),
        integer("lifecycle_version", "version of that lifecycle"),
        text("initial_stage", "stage of a seed that was only planted"),
        sa.PrimaryKeyConstraint("model_id", name=op.f("pk_models")),
        sa.UniqueConstraint("name", name=op.f("uq_models_name")),
        comment="one row per model",
    )
    op.create_table(
        "history",
        model_id("UUID of the model"),
        integer("version", "version of the model that the fact led to; 1 is its birth", autoincrement=False),
        text("fact", "stable name of the fact, e.g. surgery.layer_added"),
        text(
            "subject", "layer, seed, decision or version it is about; NULL if the whole model", nullable=True
        ),
        integer("edits", "edits it made to the model; 0: it left it as it was"),
        text("at", "UTC time of recording, ISO 8601, microseconds"),
        count("epoch", "epochs of training that had ended; never rewound"),
        count("step", "optimizer steps that had been taken; never rewound"),
        text("actor", "who caused it: a person, a policy, or engine"),
        text("reasoning", "why, in the actor's words; may be empty"),
        text("decision_id", "decision that led to it; NULL if none", nullable=True),
        double("confidence", "of that decision, 0 to 1; NULL if none was given", nullable=True),
        integer("caused_by_version", "fact of the same model that led to it; NULL if none", nullable=True),
        sa.ForeignKeyConstraint(["model_id"], ["models.model_id"], name=op.f("fk_history_model_id_models")),
        sa.PrimaryKeyConstraint("model_id", "version", name=op.f("pk_history")),
        comment="one row per fact: what happened, when, by whom and why",
    )
    create_index("history", "decision_id")
    create_index("history", "model_id", "at")
    create_fact_table(
        "environments",
        text("esper_es", "release of esper-es"),
        text("python", "release of Python"),
        text("torch", "release of torch"),
        text("device", "devices that held the model"),
        text("cpu_capability", "instruction set that torch used on the CPU"),
        integer("threads", "threads of torch on the CPU"),
        boolean("deterministic", "whether torch's deterministic mode was on"),
        text("default_dtype", "torch's default dtype"),
        text(
            "code_commit",
            "git commit of the program, +dirty if files differed; NULL if unknown",
            nullable=True,
        ),
        comment="software and hardware from this version on, until the next row of the model",
    )
    create_fact_table(
        "epochs",
        count("epoch", "epochs the log has seen, this one included; never rewound"),
        count("step", "optimizer steps the log has seen; never rewound"),
        comment="one row per epoch of training that ended",
    )
    create_fact_table(
        "epoch_metrics",
        text("metric", "name of the metric, e.g. val_acc"),
        double("value", "its value at the end of the epoch"),
        comment="metrics of the epochs: one row per epoch and metric",
        further_key=("metric",),
    )
    create_fact_table(
        "captures",
        integer("of_version", "version whose last state was captured"),
        text(
            "manifest", "digest of the manifest: fingerprint of model, optimizer, scheduler, scaler and RNG"
        ),
        text("model_fingerprint", "fingerprint of the model alone: architecture and bytes"),
        count("tensors", "tensors that the manifest names"),
        count("bytes", "their bytes"),
        text("reason", "birth, before <operation>, asked, or every N epochs"),
        integer("released_by_version", "fact that gave the capture up; NULL: it is kept", nullable=True),
        comment="states stored in the vault, to which the model can be rolled back",
    )
    create_fact_table(
        "rollbacks",
        integer("to_version", "version that was asked for"),
        integer("capture_version", "capture that was restored"),
        integer("from_version", "newest version before"),
        integer(
            "base_capture_version", "capture of the state that was left; NULL if none was made", nullable=True
        ),
        text("triggered_by", "asked, watch (a trial was lost), or resume (a process came back)"),
        text("reason", "why, in words"),
        count("epochs_discarded", "epochs of training given up"),
        count("steps_discarded", "optimizer steps given up"),
        text("fingerprint", "of the whole restored state, measured"),
        text("model_fingerprint", "of the restored model alone, measured"),
        text(
            "expected_fingerprint",
            "what the fingerprint had to be; NULL where the target is a capture and edits after it",
            nullable=True,
        ),
        boolean(
            "matched",
            "whether the measured fingerprint is the expected one; NULL where none is expected",
            nullable=True,
        ),
        comment="returns to earlier versions",
    )
    create_fact_table(
        "decisions",
        text("decision_id", "the caller's id of the decision"),
        text("layer", "layer it is about"),
        text("adaptation_type", "what to do, e.g. add_neurons"),
        double("confidence", "0 to 1"),
        double("urgency", "0 to 1"),
        json("parameters", "parameters of the adaptation, a JSON object"),
        text("reasoning", "why, in words"),
        text("actor", "who or what decided"),
        json("metadata", "what else the caller said, a JSON object"),
        double(
            "decided_at",
            "when, in seconds since 1970 UTC, by the caller's clock; NULL if not said",
            nullable=True,
        ),
        integer("settled_version", "fact that says what came of it; NULL: none yet", nullable=True),
        text("outcome", "applied or refused; NULL: not settled yet", nullable=True),
        text("outcome_reason", "why it was refused; NULL: not settled yet", nullable=True),
        comment="decisions to adapt a model, and what came of them",
    )
    create_index("decisions", "model_id", "decision_id")


def create_architecture_tables() -> None:
    create_stretch_table(
        "layers",
        text("path", "dotted path of the module; empty for the model itself"),
        text("kind", "registered layer kind, or opaque:<ClassName>"),
        json("config", "what its kind needs to build it again, a JSON object"),
        count("parameters", "scalar parameters of its own; those of its children are not counted"),
        count("bytes", "bytes of its own parameters and buffers"),
        comment="modules over versions",
    )
    create_stretch_table(
        "placements",
        text("path", "dotted path of a module that is a child of another"),
        text("parent", "dotted path of its parent; empty for the model itself"),
        count("position", "its place among the children of its parent, from 0"),
        comment="order of the children of each module over versions; shared modules stand at each of their paths",
    )
    create_index("placements", "model_id", "parent")
    create_stretch_table(
        "tensors",
        text("name", "name in the state dict"),
        text("layer", "dotted path of the module that owns it"),
        json("shape", "sizes of its dimensions, a JSON array"),
        text("dtype", "torch's name of its dtype, without the torch. in front"),
        text("role", "parameter, buffer, or transient (a buffer outside the state dict)"),
        count("elements", "number of its elements"),
        count("bytes", "its bytes"),
        comment="parameters and buffers over versions; tied ones under one name",
    )
    create_index("tensors", "model_id", "layer")
    create_stretch_table(
        "connections",
        text("connection", "id of the connection"),
        text("kind", "skip (source joins target) or after (via runs on the output of source)"),
        text("source", "module whose output is taken"),
        text("target", "module whose output is changed"),
        text("via", "module that the taken output passes through; NULL for none", nullable=True),
        count("position", "order among connections that act on the same module"),
        text("joined_by", "how a skip joins, e.g. add; empty for after"),
        comment="paths of the data flow that were added to the modules' own, over versions",
    )
    create_stretch_table(
        "shared_names",
        text("name", "second path of a shared module, or second name of a tied tensor"),
        text("what", "module or tensor"),
        text("origin", "path or name under which it is described"),
        comment="modules and tensors that go by more than one name, over versions",
    )


def create_seed_tables() -> None:
    create_stretch_table(
        "seeds",
        text("seed", "id of the seed"),
        text("layer", "module after which it grows"),
        text("stage", "stage of its life, by the lifecycle of the model"),
        text("kernel", "kernel that it was last given; NULL if none", nullable=True),
        json("arguments", "arguments of the kernel, a JSON object"),
        text("path", "dotted path of its module; NULL when it holds none", nullable=True),
        integer("germinated_version", "fact that gave it the kernel; NULL if none", nullable=True),
        text("outcome", "dormant, growing, culled or fossilized"),
        integer("ended_version", "fact that culled or fossilized it; NULL: neither", nullable=True),
        text("end_reason", "why it was culled; NULL: it was not", nullable=True),
        comment="seeds over versions, without alpha: see seed_alphas",
    )
    create_fact_table(
        "seed_transitions",
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
    create_fact_table(
        "gate_evidence",
        text("evidence", "name of the number"),
        double("observed", "its value; NULL: it was not given", nullable=True),
        double("required", "what the gate asked for at least; NULL: nothing", nullable=True),
        comment="numbers that justified a step of a seed, one row per number",
        further_key=("evidence",),
    )
    create_fact_table(
        "seed_alphas",
        text("seed", "id of the seed"),
        double("alpha", "weight of its branch from here on, 0 to 1"),
        json(
            "schedule",
            "ramp that takes the place of the seed's own, a JSON object; NULL: none",
            nullable=True,
        ),
        comment="weights of the branches of seeds, each time one moved",
    )


def create_surgery_tables() -> None:
    create_fact_table(
        "surgeries",
        text("operation", "what was asked for, e.g. add_layer or germinate_seed"),
        text("target", "layer or seed it was about"),
        text("outcome", "success or refused"),
        json("details", "what was done, or asked for if it was refused; a JSON object"),
        text("check_name", "rule or validator that refused it; NULL: none did", nullable=True),
        text("reason", "why it was refused, for a person; NULL: it was not", nullable=True),
        boolean(
            "state_restored",
            "of a refusal: whether the model was found identical afterwards; NULL: it was never touched",
            nullable=True,
        ),
        double(
            "output_difference",
            "largest change of an example output over the largest output; NULL: not comparable",
            nullable=True,
        ),
        count("parameters_before", "scalar parameters before; NULL if refused", nullable=True),
        count("parameters_after", "scalar parameters after; NULL if refused", nullable=True),
        count("bytes_before", "bytes of parameters and buffers before; NULL if refused", nullable=True),
        count("bytes_after", "bytes of parameters and buffers after; NULL if refused", nullable=True),
        count("memory_bytes", "estimated training memory after, bytes; NULL if refused", nullable=True),
        count(
            "graph_depth", "parametrised operations on the longest path after; NULL if refused", nullable=True
        ),
        double(
            "duration_ms",
            "milliseconds from the call to just before the commit; NULL if refused",
            nullable=True,
        ),
        integer("base_capture_version", "capture of the state before; NULL if none was made", nullable=True),
        text("actor", "who caused it, as in history"),
        text("reasoning", "why, as in history"),
        text("decision_id", "decision that led to it, as in history; NULL if none", nullable=True),
        comment="changes of structure, done and refused, those of seeds included",
    )
    create_fact_table(
        "optimizer_effects",
        text("tensor", "name of the tensor in the state dict"),
        text("effect", "resized, new, removed, or kept (the tensor moved or was scaled)"),
        comment="what became of optimizer state at a change of structure; tensors not named kept theirs untouched",
        further_key=("tensor",),
    )
    create_fact_table(
        "validator_verdicts",
        text("validator", "name of the validator"),
        text("verdict", "what it said"),
        comment="verdicts of the validators on a change of structure",
        further_key=("validator",),
    )
    create_fact_table(
        "watches",
        integer("subject_version", "surgery on trial"),
        text("metric", "metric that judges it"),
        text("mode", "max: more is better; min: less is"),
        double("baseline", "value of the metric before the surgery"),
        double("minimum_score", "share of the baseline below which it is undone at once"),
        double("required_score", "share of the baseline that it must have when the window ends"),
        count("until_epoch", "epoch at which the window ends; a rollback into it moves the end along"),
        comment="surgeries put on trial",
    )
    create_fact_table(
        "watch_verdicts",
        integer("subject_version", "surgery that was on trial"),
        text("outcome", "kept, rolled_back, or failed_but_kept (no capture was left to go back to)"),
        double("observed", "value of the metric that decided"),
        double("score", "its share of the baseline"),
        text("reason", "which threshold decided"),
        comment="ends of the trials; a trial without a row here is still on, or was rolled back",
    )
