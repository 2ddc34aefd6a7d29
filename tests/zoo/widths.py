"""The width groups of a model, and how to ask for each."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from esper_es import UsageError
from esper_es.tracing import Trace, WidthGroup


@frozen
class Width:
    """A group that nothing pins.

    Attributes:
        layer: whose output channels the group is; empty when it is nobody's.
        group: as ``layer`` sees it.
    """

    layer: str
    group: WidthGroup


def free_widths(found: Trace) -> Iterator[Width]:
    """Yield every free group of a model."""
    for group in found.width_groups:
        if group.free:
            yield _asked_for(found, group)


def _asked_for(found: Trace, group: WidthGroup) -> Width:
    for member in group.members:
        if "producer" not in member.roles:
            continue
        try:
            seen = found.group_of(member.module)
        except UsageError:
            continue
        if _places(seen) == _places(group):
            return Width(member.module, seen)
    return Width("", group)


def _places(group: WidthGroup) -> frozenset[tuple[str, int]]:
    return frozenset((member.tensor, member.dim) for member in group.members)
