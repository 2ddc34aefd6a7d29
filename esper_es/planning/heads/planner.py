"""Planning ``unit="head_size"``: every head of an attention gets more channels, or fewer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from math import sqrt

import torch
from attrs import evolve, frozen

from esper_es.domain.errors import Refused
from esper_es.planning.attributes.repair import adapted, coupled
from esper_es.planning.attributes.search import searched
from esper_es.planning.capacity import require_room_to_grow
from esper_es.planning.heads.proof import head_proof
from esper_es.planning.heads.tables_out_of_reach import of_tables
from esper_es.planning.heads.targets import HeadTarget, head_targets, sides_of
from esper_es.planning.heads.ways import Way, best_way
from esper_es.planning.observation import observe
from esper_es.planning.resizing import Resizing, grown, in_turn, shrunk
from esper_es.planning.widths.asked import Asked
from esper_es.planning.widths.change import FIXED, Change, Resolved, looked_at
from esper_es.planning.widths.companions import Target
from esper_es.planning.widths.edits import Filled
from esper_es.planning.widths.importance import best, most_important, rated
from esper_es.planning.widths.initializations import narrowed
from esper_es.planning.widths.streams import EPSILONS
from esper_es.tracing import Trace, WidthGroup

SEARCHED = (FIXED, "coupled")
"""Checks of refusals after which other layers are changed with the heads too."""
LAWS = {"function_preserving": "kaiming", "kaiming": "kaiming", "xavier": "xavier"}


@frozen(eq=False)
class HeadChange:
    """How heads change their size.

    Attributes:
        targets: which places inside of heads.
        kept: for each the places that stay, where some go.
        resolved: all dimensions that change, the proof, and the attributes that go with it.
        done: the edits of tensors, and the tensors that they name.
        method: what was done about new entries and old ones, in a few words.
        norms: paths of the norms of heads that make up for channels that came or went.
    """

    targets: tuple[HeadTarget, ...]
    kept: tuple[tuple[int, ...] | None, ...]
    resolved: Resolved
    done: Filled
    method: str
    norms: tuple[str, ...]


def head_change(asked: Asked) -> HeadChange:
    """Return how the heads that a layer makes get another size: the least that the model's code allows.

    Raises:
        Refused: if they can't.
    """
    if asked.initialization not in LAWS:
        raise Refused(
            f"{asked.initialization} is for channels that come and go by themselves; for those of heads choose "
            f"{', '.join(LAWS)}",
            "initialization",
        )
    reason = None
    every = head_targets(asked.scene, asked.found, asked.request, asked.group)
    for targets, beside in _candidates(asked.found, every):
        try:
            return tried_change(asked, targets, beside)
        except Refused as error:
            refusal = of_tables(asked.scene.live.module, targets, error)
            if error.check not in SEARCHED:
                raise refusal from error
            reason = reason or refusal
    assert reason is not None
    raise _of_kinds(asked.group) or reason


def _of_kinds(group: WidthGroup) -> Refused | None:
    """Say so where heads are not all alike: those of one kind were tried alone."""
    if group.families == 1:
        return None
    own = [m.tensor for m in group.members if len(set(m.positions[m.positions >= 0].tolist())) < group.units]
    return Refused(
        f"the {group.units} units of {group.tensor} are of {group.families} kinds, each with tensors of its own "
        f"({', '.join(own[:4])}{' and others' if len(own) > 4 else ''}), and the model's own code does not let the "
        "heads of one kind have another size than the others; all kinds at once are not supported. Their number can "
        "change (unit='heads')",
        "heads",
    )


def _candidates(
    found: Trace, every: Iterable[tuple[HeadTarget, ...]]
) -> Iterator[tuple[tuple[HeadTarget, ...], tuple[Target, ...]]]:
    """What could change: heads alone first, then with a stream that is as wide as all of them."""
    seen = []
    for targets in every:
        seen.append(targets)
        yield targets, ()
    for targets in seen:
        if {target.reads for target in targets} == {True, False} or all(map(_is_both, targets)):
            yield from ((targets, beside) for beside in _companions(found, targets))


def _is_both(target: HeadTarget) -> bool:
    """Whether values meet the queries channel by channel, so that one kind of places is both sides."""
    return not target.reads and any(member.role == "consumer" for member in target.kind.members)


def with_stream(asked: Asked, stream: Target) -> HeadChange | Refused | None:
    """Return how a stream changes with the size of all heads that are as wide as it is, where the model's own code
    takes one width for the other, or why it can't; None where no heads are as wide, or the width is none of theirs."""
    heads = [
        sides
        for group in asked.found.width_groups
        if (sides := sides_of(asked.found, group)) and all(side.width == stream.group.units for side in sides)
    ]
    if asked.initialization not in LAWS or not heads or len({sides[0].heads.units for sides in heads}) > 1:
        return None
    number = heads[0][0].heads.units
    own = {(m.tensor, m.dim) for m in stream.group.members}
    if stream.units % number or any(own & {(m.tensor, m.dim) for m in s[0].heads.members} for s in heads):
        return None
    try:
        targets = tuple(side.target(stream.units // number) for sides in heads for side in sides)
        return tried_change(asked, targets, (stream,))
    except Refused as refusal:
        return refusal


def tried_change(asked: Asked, targets: tuple[HeadTarget, ...], beside: Sequence[Target]) -> HeadChange:
    """Return how these places change, and these other groups with them.

    Raises:
        Refused: if they can't.
    """
    scene, law = asked.scene, LAWS[asked.initialization]
    kept = _kept(asked, targets)
    resolved = _resolved(asked, targets, kept, beside)
    if looked_at(scene, resolved, resolved.proof) != ():
        raise Refused(f"heads of {targets[0].heads.tensor} would not be laid out as before", FIXED)
    resizings, attributes = resolved.change.resizings, resolved.attributes
    if kept[0] is None:
        way = best_way(scene, targets, kept, resizings, attributes, law)
        done = way.filled(scene, scene.live.module, resizings, law)
        method = "channels of heads drawn on one side, zero on the other"
        method = f"{method}; {way.method}" if way.method else method
    elif not beside:
        way, method = best_way(scene, targets, kept, resizings, attributes, law), ""
        done = way.filled(scene, scene.live.module, resizings, law)
    else:
        way = _as_if_grown(asked, targets, beside)
        plain = narrowed(scene, resizings, attributes)
        done, method = evolve(plain.filled, edits=(*plain.filled.edits, *way.scaled(resizings))), plain.method
    if way.factor != 1.0 or way.numbers:
        method = f"{method}, scores rescaled".removeprefix(", ")
    norms = {m.module for t in targets for m in t.kind.members if way.norm and m.role == "affine"}
    norms |= {number.path for number in way.numbers if number.name in EPSILONS}
    return HeadChange(targets, kept, resolved, done, method, tuple(sorted(norms)))


def _as_if_grown(asked: Asked, targets: Sequence[HeadTarget], beside: Sequence[Target]) -> Way:
    """How scores are scaled, as larger heads show: what a norm over a stream computes changes when that narrows.

    Raises:
        Refused: if they do not show it either.
    """
    up = tuple(evolve(t, units=2 * t.kind.units - t.units) for t in targets)
    wider = [Target(group, 2 * group.units - units) for group, units in beside]
    kept = (None,) * len(up)
    grown_too = _resolved(asked, up, kept, wider)
    resizings, law = grown_too.change.resizings, LAWS[asked.initialization]
    way = best_way(asked.scene, up, kept, resizings, grown_too.attributes, law)
    paired = next((target for target in targets if not target.reads), None)
    told = way.factor != 1.0 and paired is not None
    return evolve(way, factor=sqrt(paired.new_size / paired.size) if told and paired else 1.0)


def _companions(found: Trace, targets: Sequence[HeadTarget]) -> Iterator[tuple[Target, ...]]:
    """Groups as wide as all heads together, which the model's own code may take for the same width: the stream."""
    heads = targets[0].heads
    if any(target.turned for target in targets):
        return
    own = {(m.tensor, m.dim) for target in targets for m in target.heads.members}
    old = {heads.units * target.size for target in targets}
    new = {heads.units * target.new_size for target in targets}
    if len(old) > 1 or len(new) > 1:
        return
    for group in found.width_groups:
        fits = group.free and group.families == 1 and group.unit_size == 1 and {group.units} == old
        if fits and not own & {(m.tensor, m.dim) for m in group.members}:
            yield (Target(group, *new),)


def _kept(asked: Asked, targets: Sequence[HeadTarget]) -> tuple[tuple[int, ...] | None, ...]:
    """The places that stay: those of largest importance, over all heads; where one table turns several attentions, over
    all of these."""
    if all(target.units >= target.kind.units for target in targets):
        return (None,) * len(targets)
    root = asked.scene.live.module
    ratings = [rated(root, target.kind, asked.importance).double() for target in targets]
    turned = [rating for rating, target in zip(ratings, targets, strict=True) if target.turned]
    return tuple(
        tuple(best(torch.stack(turned).sum(0) if target.turned else rating, target.units))
        for rating, target in zip(ratings, targets, strict=True)
    )


def _resolved(
    asked: Asked,
    targets: Sequence[HeadTarget],
    kept: Sequence[tuple[int, ...] | None],
    beside: Sequence[Target],
) -> Resolved:
    scene, root = asked.scene, asked.scene.live.module

    def resized(group: WidthGroup, units: int, staying: Sequence[int] | None) -> tuple[Resizing, ...]:
        if staying is not None:
            return shrunk(group, staying)
        require_room_to_grow(scene.state, root, group, units)
        return grown(group, units)

    parts = [resized(t.kind, t.units, staying) for t, staying in zip(targets, kept, strict=True)]
    for group, units in beside:
        fewer = units < group.units
        staying = most_important(root, group, units, asked.importance) if fewer else None
        parts.append(resized(group, units, staying))
    resizings = coupled(root, in_turn(resizing for part in parts for resizing in part), _nothing_else)
    proof = head_proof(scene, asked.found, resizings, targets, kept)
    known = adapted(root, resizings)
    run = partial(observe, scene.shadow, scene.examples)
    attributes = (*known, *searched(scene.shadow, resizings, known, run, proof))
    return Resolved(Change(resizings, kept[0]), proof, attributes)


def _nothing_else(tensor: str, dim: int, size: int, why: str) -> Sequence[Resizing]:
    raise Refused(f"{why}, which the size of heads does not change", "coupled")
