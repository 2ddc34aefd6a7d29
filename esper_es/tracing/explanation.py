"""Width groups in words."""

from __future__ import annotations

from esper_es.tracing.groups import Member, WidthGroup


def explained(group: WidthGroup) -> str:
    """A readable account of a group, one fact a line."""
    per_unit = f" of {group.unit_size} channels" if group.unit_size > 1 else ""
    lines = [f"{group.tensor} dim {group.dim}: {group.size} channels, {group.units} units{per_unit}"]
    if group.families > 1:
        lines.append(f"  of {group.families} kinds: they cannot be grown as one")
    width = max(len(member.tensor) for member in group.members)
    lines += [
        f"  {member.role:<9} {member.tensor:<{width}} dim {member.dim}  {_share(member)}"
        for member in group.members
    ]
    lines += [f"  reduced over by {r.op}{_inside(r.module)}" for r in group.reduced_by]
    lines += [f"  pinned: {p.tensor} dim {p.dim} {p.reason}{_inside(p.module)}" for p in group.pins]
    if group.free:
        lines.append("  free to grow and shrink")
    return "\n".join(lines)


def _share(member: Member) -> str:
    total = len(member.positions)
    return f"all {total}" if member.covered == total else f"{member.covered} of {total}"


def _inside(module: str) -> str:
    return f" in {module}" if module else ""
