"""Questions about seeds and what promoted them."""

from __future__ import annotations

from typing import Final

from esper_es.projections.audit.question import MODEL, Question
from esper_es.projections.audit.question_parts import LINEAGE, NEWEST

SEEDS: Final = Question(
    number=4,
    name="seeds",
    text="Which seeds were tried, and how did each end?",
    parameters=(MODEL,),
    columns=(
        "seed",
        "layer",
        "kernel",
        "planted by version",
        "germinated by version",
        "last stage",
        "outcome",
        "ended by version",
        "reason",
        "undone by rollback",
    ),
    sql="""\
WITH lives AS (
    -- the newest row of each kernel that a seed was given, and of seeds that were only planted
    SELECT s.*, row_number() OVER (
        PARTITION BY s.seed, s.added_by_version, coalesce(s.germinated_version, 0)
        ORDER BY s.valid_from_version DESC) AS from_the_end
    FROM models m JOIN seeds s ON s.model_id = m.model_id
    WHERE m.name = :model
)
SELECT s.seed, s.layer, s.kernel, s.added_by_version, s.germinated_version, s.stage,
       CASE WHEN s.ended_version IS NULL AND r.version IS NOT NULL THEN 'rolled back' ELSE s.outcome END,
       coalesce(s.ended_version, r.version),
       CASE WHEN s.ended_version IS NULL THEN r.reason ELSE s.end_reason END,
       r.version
FROM lives s
LEFT JOIN rollbacks r ON r.model_id = s.model_id AND r.version = s.valid_to_version
WHERE s.from_the_end = 1
  AND (s.germinated_version IS NOT NULL OR NOT EXISTS (
       SELECT 1 FROM lives o WHERE o.seed = s.seed AND o.added_by_version = s.added_by_version
         AND o.germinated_version IS NOT NULL))
ORDER BY s.added_by_version, s.seed, coalesce(s.germinated_version, 0)
""",
)

PROMOTIONS: Final = Question(
    number=8,
    name="promotions",
    text="What evidence (metrics, thresholds, window) justified each promotion?",
    parameters=(MODEL,),
    columns=(
        "version",
        "subject",
        "from",
        "to",
        "gate",
        "evidence",
        "observed",
        "required",
        "window in epochs",
        "override",
        "actor",
        "reasoning",
        "undone",
    ),
    sql=f"""\
WITH RECURSIVE {NEWEST},
{LINEAGE}
SELECT p.version, p.subject, p.from_stage, p.to_stage, p.gate, p.evidence, p.observed, p.required,
       p.epochs, p.override, h.actor, h.reasoning,
       CASE WHEN EXISTS (SELECT 1 FROM lineage l WHERE p.version BETWEEN l.first_version AND l.last_version)
            THEN 'no' ELSE 'yes' END
FROM (
    SELECT t.model_id, t.version, 'seed ' || t.seed AS subject, t.from_stage, t.to_stage, t.gate,
           e.evidence, e.observed, e.required, t.epochs_in_stage AS epochs, t.override
    FROM chosen c
    JOIN seed_transitions t ON t.model_id = c.model_id AND t.gate <> ''
    LEFT JOIN gate_evidence e ON e.model_id = t.model_id AND e.version = t.version
    UNION ALL
    SELECT v.model_id, v.version, s.operation || ' of version ' || CAST(s.version AS TEXT), 'on trial',
           'kept', 'watch', 'score of ' || w.metric, v.score, w.required_score,
           w.until_epoch - o.epoch, NULL
    FROM chosen c
    JOIN watch_verdicts v ON v.model_id = c.model_id AND v.outcome = 'kept'
    JOIN surgeries s ON s.model_id = v.model_id AND s.version = v.subject_version
    JOIN watches w ON w.model_id = v.model_id AND w.subject_version = v.subject_version
    JOIN history o ON o.model_id = w.model_id AND o.version = w.version
) p
JOIN history h ON h.model_id = p.model_id AND h.version = p.version
ORDER BY p.version, p.evidence
""",
)
