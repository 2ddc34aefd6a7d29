"""The audit tables, on the metadata of the log. They can be emptied and rebuilt from the facts at any time."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Table

from esper_es.projections.audit.architecture_tables import (
    connections,
    layers,
    placements,
    shared_names,
    tensors,
)
from esper_es.projections.audit.log_tables import (
    captures,
    decisions,
    environments,
    epoch_metrics,
    epochs,
    history,
    models,
    rollbacks,
)
from esper_es.projections.audit.seed_tables import gate_evidence, seed_alphas, seed_transitions, seeds
from esper_es.projections.audit.surgery_tables import (
    optimizer_effects,
    surgeries,
    validator_verdicts,
    watch_verdicts,
    watches,
)

TABLES: Final[tuple[Table, ...]] = (
    models,
    history,
    environments,
    epochs,
    epoch_metrics,
    captures,
    rollbacks,
    decisions,
    layers,
    placements,
    tensors,
    connections,
    shared_names,
    seeds,
    seed_transitions,
    gate_evidence,
    seed_alphas,
    surgeries,
    optimizer_effects,
    validator_verdicts,
    watches,
    watch_verdicts,
)
"""All of them; each comes after those that it refers to."""
