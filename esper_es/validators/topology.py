"""Topology: new modules run, skips go forward, and nothing that ran before was cut off."""

from __future__ import annotations

from torch import nn

from esper_es.domain.architecture import Connection
from esper_es.planning.observation import Observation
from esper_es.projections.live.describe import connections_of
from esper_es.validators.verdict import SurgeryValidator, Trial, ValidationResult


class TopologyValidator(SurgeryValidator):
    """Checks the order of execution: no cycles, no orphans, no new module that never runs."""

    check_name = "topology"

    def check(self, model: nn.Module, operation: str, trial: Trial) -> ValidationResult:
        observation = trial.observe(model)
        present = {path for path, _ in model.named_modules()}
        errors = [
            f"new module {path!r} is never executed; the model's forward goes around it"
            for path in trial.executes
            if not observation.executed(path) and not _incubates(model, path)
        ]
        for connection in connections_of(model):
            errors += _check_connection(connection, present, observation)
        if trial.before is not None:
            ran = {call.path for call in trial.before.observation.calls} & present
            orphans = sorted(ran - {call.path for call in observation.calls})
            errors += [f"module {path!r} is no longer executed" for path in orphans]
        return self.verdict(errors, executed=len({call.path for call in observation.calls}))


def _incubates(model: nn.Module, path: str) -> bool:
    """Say whether a module is a seed's kernel, which rests in eval mode; the gradient check saw it run."""
    owner, _, name = path.rpartition(".")
    slot = model.get_submodule(owner)
    return name == "kernel" and not getattr(slot, "_mixes", True)


def _check_connection(connection: Connection, present: set[str], observation: Observation) -> list[str]:
    missing = [
        path
        for path in (connection.source, connection.target, connection.via)
        if path and path not in present
    ]
    if missing:
        return [f"connection {connection.id!r} names {missing[0]!r}, which is not there"]
    if connection.kind != "skip":
        return []
    sources, targets = observation.calls_of(connection.source), observation.calls_of(connection.target)
    if sources and targets and sources[0].end >= targets[0].end:
        return [f"connection {connection.id!r} goes backwards: a cycle"]
    return []
