"""Tables about models and their logs: who, when, why, training, captures, rollbacks, decisions."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Boolean, Column, Double, ForeignKey, Index, Integer, Table

from esper_es.projections.audit.columns import MODEL_ID, count, json, of_fact, text, version
from esper_es.projections.schema import metadata

models: Final = Table(
    "models",
    metadata,
    Column("model_id", MODEL_ID, primary_key=True, comment="UUID of the model, lower case with hyphens"),
    text("name", "name of the model, unique in the log", unique=True),
    text("registered_at", "UTC time of its first fact, ISO 8601, microseconds"),
    text("blueprint", "blueprint it was built from; NULL if its architecture describes it", nullable=True),
    json("blueprint_arguments", "arguments of the blueprint, a JSON object"),
    text("forked_from_name", "model it was forked from; NULL if none", nullable=True),
    version("forked_from_version", "version it was forked from; NULL if none"),
    count("parameters", "scalar parameters at birth, tied ones counted once"),
    count("bytes", "bytes of parameters and buffers at birth"),
    count("memory_bytes", "estimated training memory at birth, bytes"),
    json("constraints", "limits on surgery, a JSON object; NULL for none", nullable=True),
    json("capture_policy", "when its state is captured unasked, a JSON object"),
    json("watch_policy", "which metric judges surgeries, a JSON object; NULL for none", nullable=True),
    text("lifecycle", "name of the lifecycle of its seeds"),
    Column("lifecycle_version", Integer(), nullable=False, comment="version of that lifecycle"),
    text("initial_stage", "stage of a seed that was only planted"),
    comment="one row per model",
)

history: Final = Table(
    "history",
    metadata,
    Column(
        "model_id", MODEL_ID, ForeignKey("models.model_id"), primary_key=True, comment="UUID of the model"
    ),
    Column(
        "version",
        Integer(),
        primary_key=True,
        autoincrement=False,
        comment="version of the model that the fact led to; 1 is its birth",
    ),
    text("fact", "stable name of the fact, e.g. surgery.layer_added"),
    text("subject", "layer, seed, decision or version it is about; NULL if the whole model", nullable=True),
    Column("edits", Integer(), nullable=False, comment="edits it made to the model; 0: it left it as it was"),
    text("at", "UTC time of recording, ISO 8601, microseconds"),
    count("epoch", "epochs of training that had ended; never rewound"),
    count("step", "optimizer steps that had been taken; never rewound"),
    text("actor", "who caused it: a person, a policy, or engine"),
    text("reasoning", "why, in the actor's words; may be empty"),
    text("decision_id", "decision that led to it; NULL if none", nullable=True),
    Column("confidence", Double(), nullable=True, comment="of that decision, 0 to 1; NULL if none was given"),
    version("caused_by_version", "fact of the same model that led to it; NULL if none"),
    Index(None, "model_id", "at"),
    Index(None, "decision_id"),
    comment="one row per fact: what happened, when, by whom and why",
)

environments: Final = Table(
    "environments",
    metadata,
    *of_fact(),
    text("esper_es", "release of esper-es"),
    text("python", "release of Python"),
    text("torch", "release of torch"),
    text("device", "devices that held the model"),
    text("cpu_capability", "instruction set that torch used on the CPU"),
    Column("threads", Integer(), nullable=False, comment="threads of torch on the CPU"),
    Column("deterministic", Boolean(), nullable=False, comment="whether torch's deterministic mode was on"),
    text("default_dtype", "torch's default dtype"),
    text(
        "code_commit", "git commit of the program, +dirty if files differed; NULL if unknown", nullable=True
    ),
    comment="software and hardware from this version on, until the next row of the model",
)

epochs: Final = Table(
    "epochs",
    metadata,
    *of_fact(),
    count("epoch", "epochs the log has seen, this one included; never rewound"),
    count("step", "optimizer steps the log has seen; never rewound"),
    comment="one row per epoch of training that ended",
)

epoch_metrics: Final = Table(
    "epoch_metrics",
    metadata,
    *of_fact(text("metric", "name of the metric, e.g. val_acc", primary_key=True)),
    Column("value", Double(), nullable=False, comment="its value at the end of the epoch"),
    comment="metrics of the epochs: one row per epoch and metric",
)

captures: Final = Table(
    "captures",
    metadata,
    *of_fact(),
    version("of_version", "version whose last state was captured", nullable=False),
    text("manifest", "digest of the manifest: fingerprint of model, optimizer, scheduler, scaler and RNG"),
    text("model_fingerprint", "fingerprint of the model alone: architecture and bytes"),
    count("tensors", "tensors that the manifest names"),
    count("bytes", "their bytes"),
    text("reason", "birth, before <operation>, asked, or every N epochs"),
    version("released_by_version", "fact that gave the capture up; NULL: it is kept"),
    comment="states stored in the vault, to which the model can be rolled back",
)

rollbacks: Final = Table(
    "rollbacks",
    metadata,
    *of_fact(),
    version("to_version", "version that was asked for", nullable=False),
    version("capture_version", "capture that was restored", nullable=False),
    version("from_version", "newest version before", nullable=False),
    version("base_capture_version", "capture of the state that was left; NULL if none was made"),
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
    Column(
        "matched",
        Boolean(),
        nullable=True,
        comment="whether the measured fingerprint is the expected one; NULL where none is expected",
    ),
    comment="returns to earlier versions",
)

decisions: Final = Table(
    "decisions",
    metadata,
    *of_fact(),
    text("decision_id", "the caller's id of the decision"),
    text("layer", "layer it is about"),
    text("adaptation_type", "what to do, e.g. add_neurons"),
    Column("confidence", Double(), nullable=False, comment="0 to 1"),
    Column("urgency", Double(), nullable=False, comment="0 to 1"),
    json("parameters", "parameters of the adaptation, a JSON object"),
    text("reasoning", "why, in words"),
    text("actor", "who or what decided"),
    json("metadata", "what else the caller said, a JSON object"),
    Column(
        "decided_at",
        Double(),
        nullable=True,
        comment="when, in seconds since 1970 UTC, by the caller's clock; NULL if not said",
    ),
    version("settled_version", "fact that says what came of it; NULL: none yet"),
    text("outcome", "applied or refused; NULL: not settled yet", nullable=True),
    text("outcome_reason", "why it was refused; NULL: not settled yet", nullable=True),
    Index(None, "model_id", "decision_id"),
    comment="decisions to adapt a model, and what came of them",
)
