"""Questions about the architecture and the facts that led to it."""

from __future__ import annotations

from typing import Final

from esper_es.projections.audit.question import AT, EPOCH, MODEL, PATH, STEP, VERSION, Question
from esper_es.projections.audit.question_parts import CHOSEN, CHOSEN_AT, LINEAGE

ARCHITECTURE: Final = Question(
    number=1,
    name="architecture",
    text="What exact architecture did the model have at a version, time, epoch or step?",
    parameters=(MODEL, VERSION, AT, EPOCH, STEP),
    columns=(
        "version",
        "part",
        "name",
        "kind",
        "detail",
        "parameters",
        "bytes",
        "added by version",
        "changed by version",
    ),
    sql=f"""\
WITH RECURSIVE {CHOSEN_AT},
tree (model_id, version, path, place) AS (
    -- modules in the order of their parents' children, shared ones at each of their paths
    SELECT c.model_id, c.version, l.path, CAST('' AS TEXT)
    FROM chosen c JOIN layers l ON l.model_id = c.model_id AND l.path = ''
      AND l.valid_from_version <= c.version
      AND (l.valid_to_version IS NULL OR l.valid_to_version > c.version)
    UNION ALL
    SELECT t.model_id, t.version, p.path, t.place || '/' || CAST(1000000 + p.position AS TEXT)
    FROM tree t JOIN placements p ON p.model_id = t.model_id AND p.parent = t.path
      AND p.valid_from_version <= t.version
      AND (p.valid_to_version IS NULL OR p.valid_to_version > t.version)
)
SELECT version, part, name, kind, detail, parameters, bytes, added_by_version, changed_by_version
FROM (
    SELECT t.version, 'layer' AS part, l.path AS name, l.kind, CAST(l.config AS TEXT) AS detail,
           l.parameters, l.bytes, l.added_by_version, l.changed_by_version, 1 AS chapter, t.place, 1 AS line
    FROM tree t JOIN layers l ON l.model_id = t.model_id AND l.path = t.path
      AND l.valid_from_version <= t.version
      AND (l.valid_to_version IS NULL OR l.valid_to_version > t.version)
    UNION ALL
    SELECT t.version, 'tensor', e.name, e.role || ' ' || e.dtype, CAST(e.shape AS TEXT),
           CASE WHEN e.role = 'parameter' THEN e.elements ELSE 0 END, e.bytes,
           e.added_by_version, e.changed_by_version, 1, t.place, 2
    FROM tree t JOIN tensors e ON e.model_id = t.model_id AND e.layer = t.path
      AND e.valid_from_version <= t.version
      AND (e.valid_to_version IS NULL OR e.valid_to_version > t.version)
    UNION ALL
    SELECT c.version, 'shared ' || s.what, s.name, 'same as', s.origin,
           0, 0, s.added_by_version, s.changed_by_version, 2, '', 1
    FROM chosen c JOIN shared_names s ON s.model_id = c.model_id
      AND s.valid_from_version <= c.version
      AND (s.valid_to_version IS NULL OR s.valid_to_version > c.version)
    UNION ALL
    SELECT c.version, 'connection', n.connection, n.kind,
           n.source || ' -> ' || n.target || CASE WHEN n.via IS NULL THEN '' ELSE ' via ' || n.via END
           || CASE WHEN n.joined_by = '' THEN '' ELSE ' by ' || n.joined_by END,
           0, 0, n.added_by_version, n.changed_by_version, 3, CAST(1000000 + n.position AS TEXT), 1
    FROM chosen c JOIN connections n ON n.model_id = c.model_id
      AND n.valid_from_version <= c.version
      AND (n.valid_to_version IS NULL OR n.valid_to_version > c.version)
) parts
ORDER BY chapter, place, line, name
""",
)

FACTS: Final = Question(
    number=2,
    name="facts",
    text="Which facts produced a version, in order?",
    parameters=(MODEL, VERSION),
    columns=("version", "fact", "subject", "edits", "epoch", "step", "at", "actor", "reasoning"),
    sql=f"""\
WITH RECURSIVE {CHOSEN},
{LINEAGE}
SELECT h.version, h.fact, h.subject, h.edits, h.epoch, h.step, h.at, h.actor, h.reasoning
FROM lineage l JOIN history h ON h.model_id = l.model_id
  AND h.version BETWEEN l.first_version AND l.last_version
ORDER BY h.version
""",
)

BLAME: Final = Question(
    number=5,
    name="blame",
    text="Which modules exist that were absent at birth, and which fact added each?",
    parameters=(MODEL, VERSION, PATH),
    columns=(
        "path",
        "kind",
        "parameters",
        "added by version",
        "fact",
        "subject",
        "at",
        "actor",
        "reasoning",
        "decision",
        "changed by version",
    ),
    sql=f"""\
WITH {CHOSEN}
SELECT l.path, l.kind, l.parameters, l.added_by_version, h.fact, h.subject, h.at, h.actor, h.reasoning,
       h.decision_id, l.changed_by_version
FROM chosen c
JOIN layers l ON l.model_id = c.model_id
  AND l.valid_from_version <= c.version
  AND (l.valid_to_version IS NULL OR l.valid_to_version > c.version)
JOIN history h ON h.model_id = l.model_id AND h.version = l.added_by_version
WHERE l.added_by_version > 1
  AND (CAST(:path AS TEXT) IS NULL OR l.path = CAST(:path AS TEXT)
       OR substr(l.path, 1, length(CAST(:path AS TEXT)) + 1) = CAST(:path AS TEXT) || '.')
ORDER BY l.added_by_version, l.path
""",
)
