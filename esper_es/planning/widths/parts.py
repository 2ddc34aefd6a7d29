"""Widths of a dimension that code cuts into parts which go different ways.

Which parts change with the width, and by how much, is for the code to say: it may cut in the middle, or at a fixed
place. So ways to share the change out among the parts are tried, and proven.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from esper_es.domain.errors import Refused
from esper_es.planning.resizing import gathers
from esper_es.planning.widths.asked import Asked
from esper_es.planning.widths.change import Resolved, solved_together
from esper_es.planning.widths.companions import Target
from esper_es.tracing import WidthGroup


class Part(NamedTuple):
    """Units of one kind, and how many channels of the dimension one has."""

    group: WidthGroup
    step: int


def width_of(resolved: Resolved, group: WidthGroup) -> int:
    """How wide a dimension is afterwards, whatever of it changes."""
    return len(gathers(resolved.change.resizings)[group.tensor, group.dim])


def in_parts(asked: Asked, possible: int | None = None) -> Resolved | None:
    """Share a change out among the parts of a dimension; None where neither this width nor one near it can be so.

    Args:
        asked: for a group whose units are of several kinds.
        possible: a width that can be.

    Raises:
        Refused: if they can't make up the width, with the nearest that they can.
    """
    width, group = asked.request.width, asked.group
    parts = _parts(asked)
    if (resolved := _shared_out(asked, parts, width)) is not None:
        return resolved
    near = [
        next((w for w in widths if w != group.size and _shared_out(asked, parts, w)), None)
        for widths in (
            range(width - 1, max(width - len(parts) - 1, 0), -1),
            range(width + 1, width + len(parts) + 1),
        )
    ]
    others = [w for w in near if w is not None] or [w for w in (possible,) if w is not None]
    if not others:
        return None
    raise Refused(
        f"the model's own code ties the parts of {group.tensor} dim {group.dim} to one another: it can't be {width} "
        f"wide; {' and '.join(map(str, others))} can be",
        "width_unit",
    )


def _parts(asked: Asked) -> list[Part]:
    return [
        Part(group, member.covered // group.units)
        for group in asked.found.width_groups
        if group.free
        and group.families == 1
        and (member := group.member(asked.group.tensor, asked.group.dim))
    ]


def _shared_out(asked: Asked, parts: list[Part], width: int) -> Resolved | None:
    """Change the parts in the first way that makes up a width and is proven right."""
    group = asked.group
    for shares in dict.fromkeys(_ways(width - group.size, len(parts))):
        changing = [(part, by) for part, by in zip(parts, shares, strict=True) if by]
        targets = [Target(part.group, part.group.units + by // part.step) for part, by in changing]
        whole = all(by % part.step == 0 for part, by in changing)
        if not whole or any(target.units < 1 for target in targets):
            continue
        resolved = solved_together(asked.scene, asked.found, targets, asked.importance)
        if resolved is not None and width_of(resolved, group) == width:
            return resolved
    return None


def _ways(difference: int, count: int) -> Iterator[tuple[int, ...]]:
    """Ways to share out channels that come or go: as evenly as can be, what is left over at the end or at the
    beginning; or to one part alone, the last ones first."""
    if not count:
        return
    by, rest = divmod(difference, count)
    evenly = (by,) * (count - rest) + (by + 1,) * rest
    yield evenly
    yield evenly[::-1]
    for part in reversed(range(count)):
        yield tuple(difference if part == other else 0 for other in range(count))
