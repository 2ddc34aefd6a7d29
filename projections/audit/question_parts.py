"""Common table expressions that several questions begin with."""

from __future__ import annotations

from typing import Final

CHOSEN: Final = """\
chosen (model_id, version) AS (
    -- the version that was asked for: the newest by default
    SELECT h.model_id, max(h.version)
    FROM models m JOIN history h ON h.model_id = m.model_id
    WHERE m.name = :model
      AND (CAST(:version AS INTEGER) IS NULL OR h.version <= CAST(:version AS INTEGER))
    GROUP BY h.model_id
)"""

CHOSEN_AT: Final = """\
chosen (model_id, version) AS (
    -- the newest version that satisfies all that was asked for
    SELECT h.model_id, max(h.version)
    FROM models m JOIN history h ON h.model_id = m.model_id
    WHERE m.name = :model
      AND (CAST(:version AS INTEGER) IS NULL OR h.version <= CAST(:version AS INTEGER))
      AND (CAST(:at AS TEXT) IS NULL OR h.at <= CAST(:at AS TEXT))
      AND (CAST(:epoch AS BIGINT) IS NULL OR h.epoch <= CAST(:epoch AS BIGINT))
      AND (CAST(:step AS BIGINT) IS NULL OR h.step <= CAST(:step AS BIGINT))
    GROUP BY h.model_id
)"""

NEWEST: Final = """\
chosen (model_id, version) AS (
    SELECT h.model_id, max(h.version)
    FROM models m JOIN history h ON h.model_id = m.model_id
    WHERE m.name = :model
    GROUP BY h.model_id
)"""

LINEAGE: Final = """\
lineage (model_id, first_version, last_version) AS (
    -- the stretches of versions that led to the chosen one: each begins at birth or with a rollback, and is
    -- preceded by the stretch that ends at the version which that rollback went back to
    SELECT c.model_id,
           coalesce((SELECT max(r.version) FROM rollbacks r
                     WHERE r.model_id = c.model_id AND r.version <= c.version), 1),
           c.version
    FROM chosen c
    UNION ALL
    SELECT l.model_id,
           coalesce((SELECT max(e.version) FROM rollbacks e
                     WHERE e.model_id = l.model_id AND e.version <= r.to_version), 1),
           r.to_version
    FROM lineage l JOIN rollbacks r ON r.model_id = l.model_id AND r.version = l.first_version
)"""
