"""Which fact brought each module in, and which changed it last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import evolve, frozen

from esper_es.domain.architecture import Architecture, ModuleNode
from esper_es.domain.envelope import Envelope
from esper_es.domain.facts import RolledBack
from esper_es.domain.model import folded
from esper_es.domain.state import ModelState


@frozen
class Attribution:
    """Versions of the facts that a module goes back to.

    Attributes:
        added_by: brought it in.
        changed_by: gave it its kind, config, tensors or order of children of now.
    """

    added_by: int
    changed_by: int


Attributions = Mapping[str, Attribution]


def attributions(history: Iterable[Envelope]) -> Attributions:
    """Return, by path, whom each module of the newest version goes back to.

    A rollback brings back what was, with the attributions of then.
    """
    known: dict[int, Attributions] = {}
    state: ModelState | None = None
    now: Attributions = {}
    for envelope in history:
        before = state
        state = folded(state, (envelope,))
        if isinstance(envelope.fact, RolledBack):
            now = known[envelope.fact.to_version]
        elif before is None or state.architecture is not before.architecture:
            now = _after(now, before.architecture if before else None, state.architecture, envelope.version)
        known[envelope.version] = now
    return now


def _after(
    attributed: Attributions, before: Architecture | None, after: Architecture, version: int
) -> Attributions:
    old: Mapping[str, ModuleNode] = {} if before is None else before.nodes
    return {
        path: _of(attributed.get(path), old.get(path), node, version) for path, node in after.nodes.items()
    }


def _of(known: Attribution | None, before: ModuleNode | None, after: ModuleNode, version: int) -> Attribution:
    if known is None or before is None:
        return Attribution(version, version)
    return known if before == after else evolve(known, changed_by=version)
