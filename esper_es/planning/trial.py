"""Trying edits on the copy of a model, and taking them back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from esper_es.domain.edits import Edit, ResizeTensor, SetAttribute
from esper_es.domain.errors import Refused
from esper_es.effects import output_difference
from esper_es.example_inputs import ExampleCall, ExampleInputs
from esper_es.planning.observation import observe
from esper_es.planning.resizing import Resizing
from esper_es.planning.scene import Scene
from esper_es.projections.live.apply import apply_edits
from esper_es.projections.live.journal import Journal
from esper_es.projections.live.live import Live
from esper_es.projections.live.material import Blank, Planned, Recorded
from esper_es.validators.backward import gradients_of

T = TypeVar("T")
SINGLE = torch.finfo(torch.float32).eps


def tried(
    shadow: nn.Module,
    edits: Iterable[Edit],
    tensors: Mapping[str, torch.Tensor],
    look: Callable[[], T],
) -> T:
    """Apply edits to a copy, look at it, and take them back."""
    journal = Journal()
    try:
        apply_edits(Live(shadow), edits, Recorded(Planned(tensors)), journal)
        return look()
    finally:
        journal.undo()


def tried_blank(
    shadow: nn.Module,
    resizings: Iterable[Resizing],
    attributes: Iterable[SetAttribute],
    look: Callable[[], T],
) -> T:
    """Resize tensors of a copy, new entries blank, and set attributes; look at it, and take all of it back.

    Raises:
        UsageError: if an attribute can't be set like this, or the look says so.
    """
    resized = [ResizeTensor(r.member.tensor, r.member.dim, r.taken, None) for r in resizings]
    journal = Journal()
    try:
        apply_edits(Live(shadow), [*resized, *attributes], Blank(), journal)
        return look()
    finally:
        journal.undo()


def difference(scene: Scene, edits: Iterable[Edit], tensors: Mapping[str, torch.Tensor]) -> float:
    """Return the relative change of the model's outputs under edits; infinite where it does not run.

    It is the largest of two: on the example inputs, and on their negatives, as a rectifier may hide on the one what
    it shows on the other.
    """
    edits = tuple(edits)
    before = (scene.observation or scene.observe()).outputs
    changed = _difference(scene, edits, tensors, scene.examples, before)
    if changed > tolerance(scene):
        return changed
    negative = _negated(scene.examples)
    try:
        mirrored = observe(scene.shadow, negative).outputs
    except (RuntimeError, ValueError, TypeError, LookupError):
        return changed
    return max(changed, _difference(scene, edits, tensors, negative, mirrored))


def _difference(
    scene: Scene,
    edits: Iterable[Edit],
    tensors: Mapping[str, torch.Tensor],
    examples: ExampleInputs,
    before: Sequence[torch.Tensor],
) -> float:
    def look() -> float:
        found = output_difference(before, observe(scene.shadow, examples).outputs)
        return float("inf") if found is None else found

    try:
        return tried(scene.shadow, edits, tensors, look)
    except (RuntimeError, ValueError, TypeError, LookupError):
        return float("inf")


def _negated(examples: ExampleInputs) -> ExampleInputs:
    """The same inputs with the floating ones negated; tokens and masks stay."""

    def mirrored(value: Any) -> Any:
        return -value if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    return ExampleInputs(
        tuple(
            ExampleCall(tuple(map(mirrored, args)), {key: mirrored(value) for key, value in kwargs.items()})
            for args, kwargs in examples.fresh()
        )
    )


def tolerance(scene: Scene) -> float:
    """Return the relative change that rounding may cause.

    Of numbers of half precision that is less than their count of roundings would allow: there, what is wrong would not
    stand out.
    """
    outputs = (scene.observation or scene.observe()).outputs
    epsilons = [torch.finfo(t.dtype).eps for t in outputs if t.is_floating_point()]
    coarsest = max(epsilons, default=SINGLE)
    return 64 * coarsest if coarsest <= SINGLE else 8 * coarsest


def require_alive(
    scene: Scene, edits: Iterable[Edit], tensors: Mapping[str, torch.Tensor], resizings: Sequence[Resizing]
) -> None:
    """Check that every new unit would get a gradient.

    Raises:
        Refused: if some never learn.
    """
    names = {r.member.tensor for r in resizings}
    gradients = tried(scene.shadow, edits, tensors, lambda: gradients_of(scene.shadow, scene.examples, names))
    for group in {id(r.group): r.group for r in resizings}.values():
        moved = torch.zeros(max(r.units for r in resizings if r.group is group) - group.units, device="cpu")
        for r in resizings:
            gradient = gradients.get(r.member.tensor)
            if r.group is not group or r.growth is None or gradient is None:
                continue
            units = torch.from_numpy(r.growth.unit.copy())
            sizes = (
                gradient.detach()
                .abs()
                .float()
                .movedim(r.member.dim, 0)
                .reshape(len(r.gather), -1)
                .sum(1)
                .cpu()
            )
            moved.index_add_(0, units[units >= 0], sizes[units >= 0])
        unlike = int(moved.isnan().sum())
        dead = int((moved == 0).sum())
        if unlike or dead:
            why = (
                f"{unlike} of {len(moved)} new units of {group.tensor!r} would get gradients that are not numbers: "
                "what is zero is divided by its own size there, as weight_norm does"
                if unlike
                else f"{dead} of {len(moved)} new units of {group.tensor!r} would get no gradient and never learn: "
                "their activation has no slope at zero"
            )
            raise Refused(f"{why}; choose function_preserving, kaiming or xavier", "dead_units")
