"""Planning ``unit="head_size"``: every head of an attention gets more channels, or fewer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from math import sqrt

import torch
from attrs import evolve, frozen
from torch import nn

from esper_es.domain.errors import Refused
from esper_es.planning.attribute_repair import adapted, coupled
from esper_es.planning.attribute_search import searched
from esper_es.planning.capacity import require_room_to_grow
from esper_es.planning.head_fills import HeadFill, Side, normed, scaled, sides, silenced
from esper_es.planning.head_proof import head_proof
from esper_es.planning.head_scale import drawn_anew, moved
from esper_es.planning.head_targets import HeadTarget, head_targets
from esper_es.planning.observation import observe
from esper_es.planning.resizing import Resizing, grown, in_turn, shrunk
from esper_es.planning.scene import Scene
from esper_es.planning.unit_importance import Importance, best, rated
from esper_es.planning.width_change import Change, Resolved, looked_at
from esper_es.planning.width_edits import Filled, filled
from esper_es.planning.width_request import WidthRequest
from esper_es.projections.live.live import Live
from esper_es.tracing import Trace, WidthGroup

LAWS = {"function_preserving": "kaiming", "kaiming": "kaiming", "xavier": "xavier"}

CLEAR = 8.0
"""How much nearer to what they should be the outputs must be under the right scale than under any other."""


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


def head_change(
    scene: Scene,
    found: Trace,
    request: WidthRequest,
    group: WidthGroup,
    initialization: str,
    importance: Importance,
) -> HeadChange:
    """Return how the heads that a layer makes get another size: the least that the model's code allows.

    Raises:
        Refused: if they can't.
    """
    if initialization not in LAWS:
        raise Refused(
            f"{initialization} is for channels that come and go by themselves; for those of heads choose "
            f"{', '.join(LAWS)}",
            "initialization",
        )
    reason: Refused | None = None
    for targets in head_targets(scene, found, request, group):
        try:
            kept = _kept(scene, targets, importance)
            resolved = _resolved(scene, found, targets, kept)
        except Refused as refusal:
            reason = refusal
            continue
        if looked_at(scene, resolved, resolved.proof) == ():
            return _filled(scene, targets, kept, resolved, LAWS[initialization])
    raise reason or Refused(
        f"the heads of {request.layer!r} would not be laid out as before in any way that was tried",
        "fixed_width",
    )


def _kept(
    scene: Scene, targets: Sequence[HeadTarget], importance: Importance
) -> tuple[tuple[int, ...] | None, ...]:
    """The places that stay: those of largest importance, over all heads; where one table turns several attentions, over
    all of these."""
    if all(target.units >= target.kind.units for target in targets):
        return (None,) * len(targets)
    ratings = [rated(scene.live.module, target.kind, importance).double() for target in targets]
    turned = [rating for rating, target in zip(ratings, targets, strict=True) if target.turned]
    return tuple(
        tuple(best(torch.stack(turned).sum(0) if target.turned else rating, target.units))
        for rating, target in zip(ratings, targets, strict=True)
    )


def _resolved(
    scene: Scene,
    found: Trace,
    targets: Sequence[HeadTarget],
    kept: Sequence[tuple[int, ...] | None],
) -> Resolved:
    def resized(target: HeadTarget, staying: tuple[int, ...] | None) -> tuple[Resizing, ...]:
        if staying is not None:
            return shrunk(target.kind, staying)
        require_room_to_grow(scene.state, root, target.kind, target.units)
        return grown(target.kind, target.units)

    root = scene.live.module
    parts = [resized(target, staying) for target, staying in zip(targets, kept, strict=True)]
    resizings = coupled(root, in_turn(resizing for part in parts for resizing in part), _nothing_else)
    proof = head_proof(scene, found, resizings, targets, kept)
    known = adapted(root, resizings)
    run = partial(observe, scene.shadow, scene.examples)
    attributes = (*known, *searched(scene.shadow, resizings, known, run, proof))
    return Resolved(Change(resizings, kept[0]), proof, attributes)


def _nothing_else(tensor: str, dim: int, size: int, why: str) -> Sequence[Resizing]:
    raise Refused(f"{why}, which the size of heads does not change", "coupled")


@frozen(eq=False)
class _Way:
    """One way to fill new channels and to scale old ones.

    Attributes:
        silent: the side whose new channels are silent.
        norm: see ``HeadFill``.
        scale: the channels that are scaled.
        factor: by which.
    """

    silent: Side
    norm: str
    scale: Side
    factor: float

    def filled(self, scene: Scene, root: nn.Module, resizings: Sequence[Resizing], law: str) -> Filled:
        """Fill new channels of a model that is as the live one, but for its numbers."""
        filling = HeadFill(root, self.silent, law, self.norm)
        done = filled(evolve(scene, live=Live(root)), resizings, lambda _: filling)
        factor = () if self.factor == 1.0 else scaled(self.scale, resizings, self.factor)
        return Filled((*done.edits, *factor), done.tensors)


def _filled(
    scene: Scene,
    targets: tuple[HeadTarget, ...],
    kept: tuple[tuple[int, ...] | None, ...],
    resolved: Resolved,
    law: str,
) -> HeadChange:
    """Fill new entries, and scale old ones where the code scales scores by the size of heads.

    Raises:
        Refused: if nothing keeps the outputs, or the example inputs do not show what does.
    """
    resizings = resolved.change.resizings
    found: list[tuple[float, _Way]] = []
    with drawn_anew(scene.shadow, scene.examples, scene.seed("scale")) as drawn:
        expected: dict[str, tuple[torch.Tensor, ...] | None] = {}
        for ways in _ways(targets):
            norm = ways[0].norm
            if norm not in expected:
                with silenced(scene.shadow, targets, kept, norm):
                    expected[norm] = drawn.outputs()
            for way in ways:
                done = way.filled(scene, scene.shadow, resizings, law)
                outputs = drawn.outputs((*done.edits, *resolved.attributes), done.tensors)
                found.append((moved(expected[norm], outputs), way))
            if min(one for one, _ in found) <= drawn.rounding:
                break
    _, chosen = min(found, key=lambda one: one[0])
    _require_told(targets, [(one, way.factor) for one, way in found], drawn.rounding)
    done = chosen.filled(scene, scene.live.module, resizings, law)
    method = "channels of heads drawn on one side, zero on the other" if kept[0] is None else ""
    if chosen.factor != 1.0:
        method = f"{method}, scores rescaled".removeprefix(", ")
    norms = {m.module for t in targets for m in t.kind.members if chosen.norm and m.role == "affine"}
    return HeadChange(targets, kept, resolved, done, method, tuple(sorted(norms)))


def _require_told(
    targets: Sequence[HeadTarget], found: Sequence[tuple[float, float]], rounding: float
) -> None:
    """Check what was measured: how far each way moves the outputs, and its factor."""
    heads = targets[0].heads.tensor
    nearest, factor = min(found)
    others = [one for one, other in found if other != factor]
    clear = not others or min(others) > CLEAR * max(nearest, rounding / 64)
    if not nearest <= rounding and not (clear and any(normed(t.kind) for t in targets)):
        raise Refused(
            f"no way that was tried to give the heads of {heads} another size keeps what the others compute: the "
            f"outputs of a drawn model move by {nearest:.1e}",
            "not_preserved",
        )
    if not clear:
        raise Refused(
            f"the example inputs do not show whether the code scales the scores of {heads} by the size of its heads; "
            "give one with several positions",
            "head_scale",
        )


def _ways(targets: Sequence[HeadTarget]) -> Iterator[tuple[_Way, ...]]:
    """Ways to fill, each with those to scale: by nothing, or so that scores that are divided by the root of the size of
    heads stay; behind a norm, by its weights."""
    paired = next((target for target in targets if not target.reads), None)
    norms = ("rms", "mean", "") if any(normed(target.kind) for target in targets) else ("",)
    for norm, silent in product(norms, list(sides(targets)) or [Side({}, {})]):
        ways = [_Way(silent, norm, silent, 1.0)]
        if paired is not None:
            behind = norm and normed(paired.kind)
            scales = sides(targets, "affine") if behind else (silent,)
            ways += [_Way(silent, norm, scale, sqrt(paired.new_size / paired.size)) for scale in scales]
        yield tuple(ways)
