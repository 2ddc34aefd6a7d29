"""Width groups in words, and as data."""

from __future__ import annotations

import json
from typing import Any

from attrs import frozen

from esper_es.tracing.groups import Member, WidthGroup


@frozen
class Explanation:
    """What grows and shrinks together with the channels of a layer, and what keeps them as they are.

    It prints for a person.

    Attributes:
        group: the tensors that go together.
        fixed: what keeps an unpinned group as it is; None where nothing does, or nobody tried.
        head_size: how many channels each head has, of those that the layer makes or reads; 0 where it has no heads.
    """

    group: WidthGroup
    fixed: str | None = None
    head_size: int = 0

    @property
    def free(self) -> bool:
        """Whether nothing pins the group, and nothing fixes it."""
        return self.group.free and self.fixed is None

    def as_dict(self) -> dict[str, Any]:
        """The same in JSON's types: the group, ``free``, ``fixed`` and ``head_size``."""
        return {
            **self.group.as_dict(),
            "free": self.free,
            "fixed": self.fixed,
            "head_size": self.head_size,
        }

    def as_json(self) -> str:
        """The same as a JSON text."""
        return json.dumps(self.as_dict())

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """A readable account, one fact a line."""
        group = self.group
        per_unit = f" of {group.unit_size} channels" if group.unit_size > 1 else ""
        lines = [f"{group.tensor} dim {group.dim}: {group.size} channels, {group.units} units{per_unit}"]
        if group.families > 1:
            lines.append(f"  of {group.families} kinds: new ones are like the last")
        if self.head_size:
            lines.append(f"  heads of {self.head_size} channels")
        width = max(len(member.tensor) for member in group.members)
        lines += [
            f"  {member.role:<9} {member.tensor:<{width}} dim {member.dim}  {_share(member)}"
            for member in group.members
        ]
        lines += [f"  reduced over by {r.op}{_inside(r.module)}" for r in group.reduced_by]
        lines += [f"  pinned: {p.tensor} dim {p.dim} {p.reason}{_inside(p.module)}" for p in group.pins]
        if self.fixed is not None:
            lines.append(f"  fixed: {self.fixed}")
        if self.free:
            lines.append("  free to grow and shrink")
        return lines


def _share(member: Member) -> str:
    total = len(member.positions)
    return f"all {total}" if member.covered == total else f"{member.covered} of {total}"


def _inside(module: str) -> str:
    return f" in {module}" if module else ""
