"""Ways to fill new channels of heads and to scale old ones; taken is what moves a drawn model's outputs least."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from math import sqrt

import torch
from attrs import evolve, frozen
from torch import nn

from esper_es.domain.architecture import join_path, split_path
from esper_es.domain.edits import ScaleSlice, SetAttribute
from esper_es.domain.errors import Refused
from esper_es.planning.heads.fills import BARE, OFFSET, HeadFill, Side, scaled, sides, silenced
from esper_es.planning.heads.means import normed
from esper_es.planning.heads.scale import drawn_anew, moved
from esper_es.planning.heads.targets import HeadTarget
from esper_es.planning.resizing import Resizing
from esper_es.planning.scene import Scene
from esper_es.planning.widths.edits import Filled, filled
from esper_es.planning.widths.fills import Filling, Silent
from esper_es.planning.widths.initializations import stream_fillings, under_norms
from esper_es.planning.widths.streams import EPSILONS
from esper_es.projections.live.live import Live

LARGE = 0.1
"""An epsilon beside which numbers about one are told apart from those without it."""
CLEAR = 8.0
"""How much nearer to what they should be the outputs must be under the right scale than under any other."""


@frozen
class Number:
    """A number that a module keeps, and what it is multiplied by."""

    path: str
    name: str
    factor: float

    def edit(self, root: nn.Module) -> SetAttribute:
        value: float = vars(root.get_submodule(self.path))[self.name]
        return SetAttribute(self.path, self.name, value * self.factor)


@frozen(eq=False)
class Way:
    """One way to fill new channels and to scale old ones.

    Attributes:
        silent: the side whose new channels are silent.
        norm: see ``HeadFill``.
        scale: the channels that are scaled.
        factor: by which.
        beside: what new channels of other groups hold that change with the heads.
        method: what that is, in a few words.
        targets: what changes.
        numbers: that modules scale scores by, in the place of channels.
    """

    silent: Side
    norm: str
    scale: Side
    factor: float
    beside: Filling
    method: str
    targets: Sequence[HeadTarget]
    numbers: tuple[Number, ...] = ()

    def filled(self, scene: Scene, root: nn.Module, resizings: Sequence[Resizing], law: str) -> Filled:
        """Fill new channels of a model that is as the live one, but for its numbers."""
        heads = HeadFill(root, self.silent, law, self.norm, self.targets)
        others = Silent(law)

        def filling_of(resizing: Resizing) -> Filling:
            return heads if resizing.group.head_size else under_norms(self.beside, others, resizing)

        done = filled(evolve(scene, live=Live(root)), resizings, filling_of)
        numbers = [number.edit(root) for number in self.numbers]
        return Filled((*done.edits, *self.scaled(resizings), *numbers), done.tensors)

    def scaled(self, resizings: Sequence[Resizing]) -> tuple[ScaleSlice, ...]:
        """Scale old channels, once all dimensions are resized."""
        return () if self.factor == 1.0 else scaled(self.scale, resizings, self.factor)


def best_way(
    scene: Scene,
    targets: Sequence[HeadTarget],
    kept: Sequence[tuple[int, ...] | None],
    resizings: Sequence[Resizing],
    attributes: Sequence[SetAttribute],
    law: str,
) -> Way:
    """Return how to fill new entries, and to scale old ones where the code scales scores by the size of heads.

    Raises:
        Refused: if nothing keeps the outputs, or the example inputs do not show what does.
    """
    found: list[tuple[float, Way]] = []
    beside = [resizing.group for resizing in resizings if not resizing.group.head_size]
    with drawn_anew(scene.shadow, scene.examples, scene.seed("scale")) as drawn:
        expected: dict[str, tuple[torch.Tensor, ...] | None] = {}
        for ways in _ways(scene.live.module, targets, _beside(scene, resizings)):
            norm = ways[0].norm
            with _telling(scene.shadow, _epsilons(scene.shadow, targets) if norm == BARE else ()):
                if norm not in expected:
                    with silenced(scene.shadow, targets, kept, norm):
                        expected[norm] = drawn.outputs()
                for way in ways:
                    done = way.filled(scene, scene.shadow, resizings, law)
                    outputs = drawn.outputs((*done.edits, *attributes), done.tensors)
                    found.append((moved(expected[norm], outputs), way))
            if min(one for one, _ in found) <= drawn.rounding:
                break
    _, chosen = min(found, key=lambda one: one[0])
    mixed = {f"{r.op} in {r.module or 'the model'}" for one in beside for r in one.reduced_by}
    _require_told(targets, [(one, way.factor) for one, way in found], drawn.rounding, mixed)
    return chosen


def _beside(scene: Scene, resizings: Sequence[Resizing]) -> list[tuple[str, Filling]]:
    mixed = [r for r in resizings if not r.group.head_size and r.growth is not None and r.group.reduced_by]
    return list(stream_fillings(scene, mixed)) if mixed else [("", Silent())]


def _require_told(
    targets: Sequence[HeadTarget],
    found: Sequence[tuple[float, float]],
    rounding: float,
    mixed: Collection[str],
) -> None:
    """Check what was measured: how far each way moves the outputs, and its factor.

    Args:
        mixed: what is computed over channels that change beside those of heads.
    """
    heads = targets[0].heads.tensor
    nearest, factor = min(found)
    others = [one for one, other in found if other != factor]
    clear = not others or min(others) > CLEAR * max(nearest, rounding / 64)
    if not nearest <= rounding and not (clear and any(normed(t.kind) for t in targets)):
        raise Refused(
            f"no way that was tried to give the heads of {heads} another size keeps what the others compute: the "
            f"outputs of a drawn model move by {nearest:.1e}. {_left(mixed)}",
            "not_preserved",
        )
    if not clear:
        raise Refused(
            f"the example inputs do not show whether the code scales the scores of {heads} by the size of its heads, "
            "as the outputs stay either way; give one with several positions, if the scores depend on the size of "
            "queries at all",
            "head_scale",
        )


def _left(mixed: Collection[str]) -> str:
    """What may be the cause."""
    if mixed:
        some = f"{', '.join(sorted(mixed)[:3])}{' and others' if len(mixed) > 3 else ''}"
        return (
            "The model's own code takes the width of all heads for that of its stream, which changes too, and what "
            f"{some} make of the stream's channels changes with their number"
        )
    return (
        "New channels were silenced on either side of the scores, scores scaled by the size of heads or not, norms "
        "that have weights made up for: what is left is code that computes something of all channels of a head, as a "
        "norm without weights does, or that takes other numbers for another size, as positions may"
    )


def _ways(
    root: nn.Module, targets: Sequence[HeadTarget], beside: Sequence[tuple[str, Filling]]
) -> Iterator[tuple[Way, ...]]:
    """Ways to fill, each with those to scale: by nothing, or so that scores that are divided by the root of the size of
    heads stay; behind a norm, by its weights."""
    paired = next((target for target in targets if not target.reads), None)
    norms = ("rms", "mean", OFFSET, "") if any(normed(target.kind) for target in targets) else ("", BARE)
    every = list(sides(targets)) or [Side({}, {})]
    for norm, (method, filling), silent in product(norms, beside, every):
        ways = [Way(silent, norm, silent, 1.0, filling, method, targets)]
        if norm == BARE:
            epsilons = _epsilons(root, targets)
            each = [(), *_numbers(root, targets)]
            ways = [
                evolve(ways[0], numbers=(*n, *e))
                for n in each
                for e in ((epsilons, ()) if epsilons else ((),))
            ]
        elif norm == OFFSET:
            ways += [evolve(ways[0], numbers=numbers) for numbers in _numbers(root, targets)]
        elif paired is not None:
            factor = sqrt(paired.new_size / paired.size)
            scales = sides(targets, "affine") if norm and normed(paired.kind) else (silent,)
            ways += [evolve(ways[0], scale=scale, factor=factor) for scale in scales]
        yield tuple(ways)


def _numbers(root: nn.Module, targets: Sequence[HeadTarget]) -> Iterator[tuple[Number, ...]]:
    """Numbers that attentions keep, each by itself, made smaller by what norms without weights to scale make scores
    larger."""
    paths = _attentions(targets)
    held = {path: vars(root.get_submodule(path)) for path in paths}
    for name in sorted(set.intersection(*(set(one) for one in held.values())) if held else ()):
        if all(type(one[name]) is float and one[name] for one in held.values()):
            yield tuple(Number(path, name, by) for path, by in paths.items())


def _epsilons(root: nn.Module, targets: Sequence[HeadTarget]) -> tuple[Number, ...]:
    """Epsilons of norms without weights in attentions, made smaller as a mean over more channels is."""
    return tuple(
        Number(join_path(path, inside), name, by)
        for path, by in _attentions(targets).items()
        for inside, module in root.get_submodule(path).named_modules()
        for name in EPSILONS
        if type(vars(module).get(name)) is float and not module._parameters
    )


@contextmanager
def _telling(root: nn.Module, epsilons: Sequence[Number]) -> Iterator[None]:
    """Make epsilons of a copy so large meanwhile that outputs tell what becomes of them."""
    held = [(vars(root.get_submodule(number.path)), number.name) for number in epsilons]
    before = [attributes[name] for attributes, name in held]
    try:
        for attributes, name in held:
            attributes[name] = LARGE
        yield
    finally:
        for (attributes, name), value in zip(held, before, strict=True):
            attributes[name] = value


def _attentions(targets: Sequence[HeadTarget]) -> dict[str, float]:
    """The modules around what makes queries and keys, with the old size of a head as part of the new one."""
    paths: dict[str, float] = {}
    for target in targets:
        for member in target.kind.members:
            if member.role == "producer" and not target.reads:
                paths[split_path(member.module)[0]] = target.size / target.new_size
    return paths
