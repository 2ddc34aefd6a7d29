"""Questions about changes of structure."""

from __future__ import annotations

from typing import Final

from esper_es.projections.audit.question import MODEL, SURGERY, Question

OPTIMIZER: Final = Question(
    number=12,
    name="optimizer",
    text="Which optimizer moments were kept, resized, reset at each surgery?",
    parameters=(MODEL, SURGERY),
    columns=("version", "operation", "target", "tensor", "effect"),
    sql="""\
WITH asked AS (
    SELECT s.model_id, s.version, s.operation, s.target
    FROM models m JOIN surgeries s ON s.model_id = m.model_id
    WHERE m.name = :model AND s.outcome = 'success'
      AND (CAST(:version AS INTEGER) IS NULL OR s.version = CAST(:version AS INTEGER))
)
SELECT version, operation, target, tensor, effect
FROM (
    SELECT a.version, a.operation, a.target, o.tensor, o.effect
    FROM asked a JOIN optimizer_effects o ON o.model_id = a.model_id AND o.version = a.version
    UNION ALL
    SELECT a.version, a.operation, a.target, t.name, 'untouched'
    FROM asked a
    JOIN tensors t ON t.model_id = a.model_id AND t.role = 'parameter'
      AND t.valid_from_version < a.version
      AND (t.valid_to_version IS NULL OR t.valid_to_version > a.version)
    WHERE NOT EXISTS (SELECT 1 FROM optimizer_effects o
                      WHERE o.model_id = a.model_id AND o.version = a.version AND o.tensor = t.name)
) moments
ORDER BY version, CASE WHEN effect = 'untouched' THEN 1 ELSE 0 END, tensor
""",
)

FAILURES: Final = Question(
    number=20,
    name="failures",
    text="Which surgeries failed or were interrupted, and was the state restored?",
    parameters=(MODEL,),
    columns=("version", "operation", "target", "check", "reason", "state restored", "actor", "at"),
    sql="""\
SELECT f.version, f.operation, f.target, f.check_name, f.reason, f.restored, h.actor, h.at
FROM (
    SELECT s.model_id, s.version, s.operation, s.target, s.check_name, s.reason,
           CASE WHEN s.state_restored IS NULL THEN 'never touched'
                WHEN s.state_restored THEN 'yes' ELSE 'no' END AS restored
    FROM models m JOIN surgeries s ON s.model_id = m.model_id
    WHERE m.name = :model AND s.outcome = 'refused'
    UNION ALL
    SELECT r.model_id, r.version, 'training', 'version ' || CAST(r.to_version AS TEXT), 'interrupted', r.reason,
           CASE WHEN r.matched IS NULL THEN 'yes, not compared'
                WHEN r.matched THEN 'yes' ELSE 'no' END
    FROM models m JOIN rollbacks r ON r.model_id = m.model_id
    WHERE m.name = :model AND r.triggered_by = 'resume'
) f
JOIN history h ON h.model_id = f.model_id AND h.version = f.version
ORDER BY f.version
""",
)

SIZES: Final = Question(
    number=21,
    name="sizes",
    text="How many parameters and bytes did each fact add or remove, and how long did it take?",
    parameters=(MODEL,),
    columns=(
        "version",
        "operation",
        "target",
        "parameters",
        "parameters after",
        "bytes",
        "bytes after",
        "milliseconds",
        "output difference",
    ),
    sql="""\
SELECT s.version, s.operation, s.target, s.parameters_after - s.parameters_before, s.parameters_after,
       s.bytes_after - s.bytes_before, s.bytes_after, s.duration_ms, s.output_difference
FROM models m JOIN surgeries s ON s.model_id = m.model_id
WHERE m.name = :model AND s.outcome = 'success'
ORDER BY s.version
""",
)
