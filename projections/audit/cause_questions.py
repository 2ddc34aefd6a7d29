"""Questions about who and what stood behind a fact."""

from __future__ import annotations

from typing import Final

from esper_es.projections.audit.question import FACT, MODEL, Question
from esper_es.projections.audit.question_parts import NEWEST

CAUSE: Final = Question(
    number=3,
    name="cause",
    text="Who or what caused a fact, and with what stated reason?",
    parameters=(MODEL, FACT),
    columns=(
        "steps back",
        "version",
        "fact",
        "subject",
        "at",
        "actor",
        "reasoning",
        "confidence",
        "decision",
        "decided by",
        "decided to",
        "code commit",
        "esper-es",
    ),
    sql="""\
WITH RECURSIVE chain (model_id, version, steps_back) AS (
    -- the fact, the fact that led to it, and so on
    SELECT h.model_id, h.version, 0
    FROM models m JOIN history h ON h.model_id = m.model_id
    WHERE m.name = :model AND h.version = CAST(:fact AS INTEGER)
    UNION ALL
    SELECT h.model_id, h.caused_by_version, c.steps_back + 1
    FROM chain c JOIN history h ON h.model_id = c.model_id AND h.version = c.version
    WHERE h.caused_by_version < h.version
)
SELECT c.steps_back, h.version, h.fact, h.subject, h.at, h.actor, h.reasoning, h.confidence, h.decision_id,
       d.actor, d.adaptation_type || ' at ' || d.layer, e.code_commit, e.esper_es
FROM chain c
JOIN history h ON h.model_id = c.model_id AND h.version = c.version
LEFT JOIN decisions d ON d.model_id = h.model_id AND d.version =
    (SELECT max(x.version) FROM decisions x
     WHERE x.model_id = h.model_id AND x.decision_id = h.decision_id AND x.version <= h.version)
LEFT JOIN environments e ON e.model_id = h.model_id AND e.version =
    (SELECT max(x.version) FROM environments x WHERE x.model_id = h.model_id AND x.version <= h.version)
ORDER BY c.steps_back
""",
)

OVERRIDES: Final = Question(
    number=9,
    name="overrides",
    text="Was any gate overridden, and by whom?",
    parameters=(MODEL,),
    columns=("version", "seed", "from", "to", "gate", "override", "actor", "reasoning", "at"),
    sql=f"""\
WITH {NEWEST}
SELECT t.version, t.seed, t.from_stage, t.to_stage, t.gate, t.override, h.actor, h.reasoning, h.at
FROM chosen c
JOIN seed_transitions t ON t.model_id = c.model_id
JOIN history h ON h.model_id = t.model_id AND h.version = t.version
WHERE t.override IS NOT NULL
ORDER BY t.version
""",
)

ENVIRONMENT: Final = Question(
    number=15,
    name="environment",
    text="Under which software, device and flags was a fact recorded?",
    parameters=(MODEL, FACT),
    columns=(
        "since version",
        "esper-es",
        "python",
        "torch",
        "device",
        "cpu capability",
        "threads",
        "deterministic",
        "default dtype",
        "code commit",
    ),
    sql="""\
SELECT e.version, e.esper_es, e.python, e.torch, e.device, e.cpu_capability, e.threads,
       CASE WHEN e.deterministic THEN 'yes' ELSE 'no' END, e.default_dtype, e.code_commit
FROM models m JOIN environments e ON e.model_id = m.model_id
WHERE m.name = :model AND e.version =
    (SELECT max(x.version) FROM environments x
     WHERE x.model_id = m.model_id AND x.version <= CAST(:fact AS INTEGER))
""",
)
