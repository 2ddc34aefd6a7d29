"""Topology: new modules run, skips go forward along one path, and nothing that ran before was cut off."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from esper_es.domain.architecture import Connection
from esper_es.planning.execution import executed_unwatched
from esper_es.planning.layers.skip_order import finding, trace_skips
from esper_es.projections.live.describe import connections_of
from esper_es.validators.verdict import SurgeryValidator, Trial, ValidationResult


class TopologyValidator(SurgeryValidator):
    """Checks the order of execution: no cycles, no orphans, no new module that never runs."""

    check_name = "topology"

    def check(self, model: nn.Module, operation: str, trial: Trial) -> ValidationResult:
        present = {path for path, _ in model.named_modules()}
        connections = connections_of(model)
        if errors := [error for c in connections for error in _missing(c, present)]:
            return self.verdict(errors)
        if errors := _disorders(model, trial, [c for c in connections if c not in trial.connections]):
            return self.verdict(errors)
        observation = trial.observe(model)
        errors = _never_run(model, trial)
        if trial.before is not None:
            ran = {call.path for call in trial.before.observation.calls} & present
            orphans = sorted(ran - {call.path for call in observation.calls})
            errors += [f"module {path!r} is no longer executed" for path in orphans]
        return self.verdict(errors, executed=len({call.path for call in observation.calls}))


def _missing(connection: Connection, present: set[str]) -> list[str]:
    ends = (connection.source, connection.target, connection.via)
    return [
        f"connection {connection.id!r} names {path!r}, which is not there"
        for path in ends
        if path and path not in present
    ]


def _disorders(model: nn.Module, trial: Trial, connections: Iterable[Connection]) -> list[str]:
    skips = [connection for connection in connections if connection.kind == "skip"]
    if not skips:
        return []
    trace = trace_skips(model, trial.examples, skips)
    found = [(skip, finding(trace, skip.source, skip.target)) for skip in skips]
    return [f"connection {skip.id!r}: {wrong[0]}" for skip, wrong in found if wrong is not None]


def _never_run(model: nn.Module, trial: Trial) -> list[str]:
    """Return errors for new modules around which the model goes when nobody watches, as fused paths do."""
    awaited = [path for path in trial.executes if not _incubates(model, path)]
    if not awaited and not any(isinstance(part, nn.TransformerEncoderLayer) for part in model.modules()):
        return []
    try:
        executed = executed_unwatched(model, trial.examples)
    except (RuntimeError, AttributeError, TypeError, ValueError, LookupError) as error:
        return [f"the model does not run when nobody watches: {type(error).__name__}: {error}"]
    return [
        f"new module {path!r} is never executed; the model's forward goes around it"
        for path in awaited
        if path not in executed
    ]


def _incubates(model: nn.Module, path: str) -> bool:
    """Say whether a module is a seed's kernel, which rests in eval mode; the gradient check saw it run."""
    owner, _, name = path.rpartition(".")
    slot = model.get_submodule(owner)
    return name == "kernel" and not getattr(slot, "_mixes", True)
