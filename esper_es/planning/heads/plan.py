"""The plan of another head size: edits, facts, and what to tell."""

from __future__ import annotations

from esper_es.domain import rules
from esper_es.planning.heads.planner import HeadChange, head_change
from esper_es.planning.resizing import gathers
from esper_es.planning.scene import Plan
from esper_es.planning.widths.asked import Answer, Asked, mixing, planned
from esper_es.planning.widths.config_update import ConfigUpdate
from esper_es.planning.widths.unreached import Unreached


def plan_head_size(asked: Asked) -> Plan:
    """Resolve another size of heads into edits.

    Raises:
        Refused: if the heads can't have it.
    """
    return plan_of(asked, head_change(asked))


def plan_of(asked: Asked, change: HeadChange) -> Plan:
    """Return the plan of a change that gives heads another size, whether that or a stream was asked for."""
    group, resizings = asked.group, change.resolved.change.resizings
    gather = gathers(resizings)[group.tensor, group.dim]
    rules.check_width(asked.scene.state, group.size, len(gather))
    beside = [r.group for r in resizings if not r.group.head_size]
    touched = {id(one): one for one in (*(target.heads for target in change.targets), *beside)}
    Unreached(asked.scene, asked.found).require_none(
        [one for one in touched.values() if one is not group], asked.request.layer
    )
    heads = (change.targets[0].size, change.targets[0].new_size)
    asked_for_heads = all(one is not group for one in beside)
    return planned(
        asked,
        Answer(
            resolved=change.resolved,
            done=change.done,
            method=change.method,
            new_width=len(gather),
            units=heads if asked_for_heads else (group.size, len(gather)),
            kept=change.kept[0] if asked_for_heads or change.kept[0] is None else tuple(gather),
            config=_config(change),
            reduced_by=mixing(beside) | {f"norm in {path}" for path in change.norms},
            more={"head_size": heads},
        ),
    )


def _config(change: HeadChange) -> ConfigUpdate | None:
    """The configuration stays where rotary frequencies follow from it, as the old ones stay with the old channels."""
    if any(kind.per_head > 1 for t in change.targets for kind in (t.kind, *t.beside)):
        return ConfigUpdate(
            note="rotary frequencies keep to their channels, and those that follow from the configuration do not"
        )
    return None
