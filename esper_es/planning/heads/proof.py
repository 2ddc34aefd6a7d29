"""The proof that heads of another size are cut and turned as before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from esper_es.planning.heads.targets import HeadTarget
from esper_es.planning.resizing import Resizing, gathers
from esper_es.planning.scene import Scene
from esper_es.planning.widths.proof import Proof
from esper_es.projections.live.names import tensor_at
from esper_es.tracing import Trace, WidthGroup, as_whole, freed, places_in_heads, prove
from esper_es.tracing.union_find import Ids

Maps = Mapping[tuple[str, int], Ids]


def head_proof(
    scene: Scene,
    before: Trace,
    resizings: Sequence[Resizing],
    targets: Sequence[HeadTarget],
    kept: Sequence[Sequence[int] | None],
) -> Proof:
    """Return a proof by a second trace: old channels meet the same ones as before, at the same places of their heads,
    and new ones meet nothing but new ones.

    Args:
        resizings: what changes; tables of which a trace says nothing are for the outputs to tell.
        targets: the places.
        kept: for each target the places that stay; None where all do.
    """
    known = {id(target.heads): target for target in targets}
    groups = [target.heads for target in known.values()]
    expected = [_expected(before, heads, targets, kept) for heads in groups]
    seen = {(m.tensor, m.dim) for kinds in expected for each in kinds for m in each.kind.members}
    traced = [r for r in resizings if r.member.role != "table" or (r.member.tensor, r.member.dim) in seen]
    maps = {place: np.array(gather, dtype=np.int64) for place, gather in gathers(traced).items()}
    old = {place: np.arange(tensor_at(scene.live.module, place[0]).shape[place[1]]) for place in maps}

    def proof() -> tuple[str, ...]:
        after = scene.trace_again()
        new = {place: np.arange(len(gather)) for place, gather in maps.items()}
        now = [heads for target in known.values() if (heads := _heads_after(after, target)) is not None]
        if len(now) < len(groups):
            return (f"what was one head of {groups[0].tensor} is none any more",)
        for heads, kinds in zip(now, expected, strict=True):
            if wrong := tuple(_misplaced(after, heads, kinds, maps)):
                return wrong
        return prove(freed(before, old, groups), freed(after, new, now), maps)

    return proof


def _heads_after(after: Trace, target: HeadTarget) -> WidthGroup | None:
    heads = target.heads
    if target.reading is None:
        return after.group_of(heads.tensor, heads.dim)
    return as_whole(after, heads.tensor, heads.dim, target.reading)


class _Expected(NamedTuple):
    """Places of one kind, and what becomes of them: the ordinal that each has afterwards, -1 for those that go, and how
    many there are then."""

    kind: WidthGroup
    rank: Ids
    units: int


def _expected(
    before: Trace,
    heads: WidthGroup,
    targets: Sequence[HeadTarget],
    kept: Sequence[Sequence[int] | None],
) -> list[_Expected]:
    changed = {_identity(t.kind): (t.units, staying) for t, staying in zip(targets, kept, strict=True)}
    found = []
    for kind in places_in_heads(before, heads):
        units, staying = changed.get(_identity(kind), (kind.units, None))
        rank = np.arange(kind.units)
        if staying is not None:
            rank = np.full(kind.units, -1, dtype=np.int64)
            rank[np.array(staying)] = np.arange(len(staying))
        found.append(_Expected(kind, rank, units))
    return found


def _identity(kind: WidthGroup) -> tuple[str, int, bytes]:
    """What tells places from others, whether tables that turn them lie among their members or not."""
    own = next(member for member in reversed(kind.members) if member.role != "table")
    return own.tensor, own.dim, own.positions.tobytes()


def _misplaced(after: Trace, heads: WidthGroup, expected: Sequence[_Expected], maps: Maps) -> Iterator[str]:
    found = places_in_heads(after, heads)
    if len(found) != len(expected):
        yield f"the places in the heads of {heads.tensor} are of {len(found)} kinds, not {len(expected)}"
        return
    for each in expected:
        if not any(_fits(kind, each, maps) for kind in found):
            yield (
                f"the heads of {each.kind.tensor} dim {each.kind.dim} are not made of {each.units} places that lie "
                "where they are expected"
            )


def _fits(found: WidthGroup, expected: _Expected, maps: Maps) -> bool:
    kind, rank = expected.kind, expected.rank
    there = {(m.tensor, m.dim) for m in found.members}
    if (found.units, found.per_head, there) != (
        expected.units,
        kind.per_head,
        {(m.tensor, m.dim) for m in kind.members},
    ):
        return False
    for member in found.members:
        old = kind.member(member.tensor, member.dim)
        assert old is not None
        gather = maps.get((member.tensor, member.dim), np.arange(len(old.positions)))
        stays = gather >= 0
        was = old.positions[np.maximum(gather, 0)]
        new = member.positions[~stays]
        if not np.array_equal(
            member.positions[stays], np.where(was >= 0, rank[np.maximum(was, 0)], -1)[stays]
        ):
            return False
        if ((new >= 0) & (new < kind.units)).any():
            return False
    return True
