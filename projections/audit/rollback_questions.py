"""Questions about returns to earlier versions."""

from __future__ import annotations

from typing import Final

from esper_es.projections.audit.question import MODEL, Question

ROLLBACKS: Final = Question(
    number=10,
    name="rollbacks",
    text="Which rollbacks happened, to where, and what training was discarded?",
    parameters=(MODEL,),
    columns=(
        "version",
        "to version",
        "from version",
        "capture",
        "triggered by",
        "reason",
        "epochs discarded",
        "steps discarded",
        "state left kept in",
        "actor",
        "at",
    ),
    sql="""\
SELECT r.version, r.to_version, r.from_version, r.capture_version, r.triggered_by, r.reason,
       r.epochs_discarded, r.steps_discarded, r.base_capture_version, h.actor, h.at
FROM models m
JOIN rollbacks r ON r.model_id = m.model_id
JOIN history h ON h.model_id = r.model_id AND h.version = r.version
WHERE m.name = :model
ORDER BY r.version
""",
)

PROOFS: Final = Question(
    number=11,
    name="rollback-proofs",
    text="Did each rollback's fingerprint equal its target's?",
    parameters=(MODEL,),
    columns=(
        "version",
        "to version",
        "verdict",
        "measured",
        "expected",
        "manifest of the capture",
        "model measured",
        "model captured",
    ),
    sql="""\
SELECT r.version, r.to_version,
       CASE WHEN r.expected_fingerprint IS NULL THEN 'not comparable: the target is a capture and edits after it'
            WHEN c.manifest IS NULL THEN 'different: the capture is not in the log'
            WHEN r.fingerprint <> r.expected_fingerprint THEN 'different: from what was expected'
            WHEN r.fingerprint <> c.manifest THEN 'different: from the manifest of the capture'
            WHEN r.model_fingerprint <> c.model_fingerprint THEN 'different: from the model captured'
            ELSE 'equal' END,
       r.fingerprint, r.expected_fingerprint, c.manifest, r.model_fingerprint, c.model_fingerprint
FROM models m
JOIN rollbacks r ON r.model_id = m.model_id
LEFT JOIN captures c ON c.model_id = r.model_id AND c.version = r.capture_version
WHERE m.name = :model
ORDER BY r.version
""",
)
