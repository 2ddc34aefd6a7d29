"""Planning ``modify_layer_width``: everything that one channel touches grows or shrinks together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import torch
from attrs import frozen
from torch import nn

from esper_es.domain import rules
from esper_es.domain.edits import Edit, Fill, ResizeTensor
from esper_es.domain.errors import Refused, UsageError
from esper_es.domain.index_map import IndexMap
from esper_es.domain.surgery_commands import modify_layer_width
from esper_es.planning.layer_attributes import attribute_edits
from esper_es.planning.scene import Plan, Scene
from esper_es.planning.unit_importance import l2_importance
from esper_es.planning.width_fills import INITIALIZATIONS, fill_for
from esper_es.projections.live.initializers import CONSTANTS, derived_slice
from esper_es.projections.live.names import tensor_at
from esper_es.tracing import Member, Refusal, Trace, WidthGroup, group_growth, group_selection, prove
from esper_es.vault import digest_of

T = TypeVar("T")

Importance = Callable[[nn.Module, WidthGroup], torch.Tensor]
"""Gives each unit of a group a number, more for units worth keeping; shape ``(units,)``."""


@frozen(eq=False)
class Resizing:
    """One dimension of one tensor, and where its new indices come from."""

    member: Member
    gather: IndexMap


def plan_modify_layer_width(
    scene: Scene,
    *,
    layer_name: str,
    new_width: int,
    initialization: str,
    importance: Importance = l2_importance,
) -> Plan:
    """Widen or narrow the output of a layer.

    The model is traced by execution to find what each channel feeds. New channels get incoming weights by
    ``initialization`` and outgoing weights of zero, so that the model's function stays (except under a norm over
    the channels); narrowing keeps the units of largest importance, in their order. The result is proven by a
    second trace.

    Raises:
        UsageError: for an unknown initialization or a width that is not a positive integer.
        Refused: if the layer has no width, is pinned, or the width is not a multiple of its units.
    """
    _check_arguments(new_width, initialization)
    rules.check_frequency(scene.state)
    scene.require_layer(layer_name)
    before = scene.trace()
    group = _group(before, layer_name)
    _check_all_seen(scene, before, group, layer_name)
    rules.check_width(scene.state, group.size, new_width)
    kept, resizings = _resizings(scene, group, layer_name, new_width, importance)
    edits, tensors = _edits(scene, resizings, initialization)
    gathers = {(r.member.tensor, r.member.dim): list(r.gather) for r in resizings}
    return Plan(
        edits=(*edits, *attribute_edits(scene.live.module, [(r.member, r.gather) for r in resizings])),
        tensors=tensors,
        details={
            "layer_name": layer_name,
            "old_width": group.size,
            "new_width": new_width,
            "initialization": initialization,
            "resized": sorted({resizing.member.tensor for resizing in resizings}),
            "reduced_by": sorted({f"{r.op} in {r.module or 'the model'}" for r in group.reduced_by}),
            "kept_units": kept,
        },
        proof=lambda _: prove(before, scene.trace_again(), gathers),
        facts=partial(
            modify_layer_width,
            layer_name=layer_name,
            old_width=group.size,
            new_width=new_width,
            initialization=initialization,
            kept_units=kept,
        ),
    )


def _check_all_seen(scene: Scene, found: Trace, group: WidthGroup, layer_name: str) -> None:
    """Check that no parameter that the example inputs never reached could be fed by the group."""
    tensors = dict(scene.state.architecture.tensors())
    unseen = [
        name for name in found.unexecuted_parameters if name in tensors and group.size in tensors[name].shape
    ]
    if unseen:
        raise Refused(
            f"the example inputs never reach {', '.join(unseen[:3])}, which might be fed by {layer_name!r}; give "
            "example inputs that reach them",
            "not_executed",
        )


def _check_arguments(new_width: int, initialization: str) -> None:
    if isinstance(new_width, bool) or not isinstance(new_width, int) or new_width < 1:
        raise UsageError(f"new_width must be a positive integer, got {new_width!r}")
    if initialization not in INITIALIZATIONS:
        raise UsageError(f"initialization is one of {', '.join(INITIALIZATIONS)}, got {initialization!r}")


def _group(found: Trace, layer_name: str) -> WidthGroup:
    try:
        return found.group_of(layer_name)
    except UsageError as error:
        raise Refused(str(error), "no_width") from error


def _resizings(
    scene: Scene, group: WidthGroup, layer_name: str, new_width: int, importance: Importance
) -> tuple[tuple[int, ...] | None, tuple[Resizing, ...]]:
    """Return which units stay (None when all do), and the gather map of every member."""
    if new_width == group.size:
        raise Refused(f"layer {layer_name!r} has width {new_width} already", "same_width")
    if group.unit_size < 1 or new_width % group.unit_size:
        size = max(group.unit_size, 1)
        nearest = [w for w in (new_width // size * size, (new_width // size + 1) * size) if w > 0]
        raise Refused(
            f"the width of {layer_name!r} changes in units of {size} channels; {new_width} is not a multiple of "
            f"them, the nearest are {' and '.join(map(str, nearest))}",
            "width_unit",
        )
    units = new_width // group.unit_size
    if units > group.units:
        grown = _accepted(group_growth(group, units - group.units))
        return None, tuple(Resizing(member, IndexMap.of(g.gather.tolist())) for member, g in grown)
    kept = _kept(scene, group, units, importance)
    chosen = _accepted(group_selection(group, kept))
    return tuple(kept), tuple(Resizing(member, IndexMap.of(ids.tolist())) for member, ids in chosen)


def _kept(scene: Scene, group: WidthGroup, units: int, importance: Importance) -> list[int]:
    _accepted(group_selection(group, [0]))
    ranking = importance(scene.live.module, group)
    order = torch.argsort(ranking, descending=True, stable=True)
    return sorted(order[:units].tolist())


def _accepted(outcome: T | Refusal) -> T:
    if isinstance(outcome, Refusal):
        raise Refused(outcome.reason, "pinned")
    return outcome


def _edits(
    scene: Scene, resizings: Sequence[Resizing], initialization: str
) -> tuple[tuple[Edit, ...], Mapping[str, torch.Tensor]]:
    """Return one edit per resized dimension, and the new slices by digest."""
    edits: list[Edit] = []
    tensors: dict[str, torch.Tensor] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for number, resizing in enumerate(resizings):
        member, gather = resizing.member, resizing.gather
        tensor = tensor_at(scene.live.module, member.tensor)
        shape = shapes.get(member.tensor, tuple(tensor.shape))
        fill = None
        if gather.added:
            seed = scene.seed(f"{number}/{member.tensor}/{member.dim}")
            module = scene.live.module.get_submodule(member.module)
            fill = fill_for(module, member, shape, initialization, seed)
            slice_shape = (*shape[: member.dim], gather.added, *shape[member.dim + 1 :])
            fill = _stored(fill, slice_shape, tensor.dtype, tensors)
        shapes[member.tensor] = (*shape[: member.dim], len(gather), *shape[member.dim + 1 :])
        edits.append(ResizeTensor(member.tensor, member.dim, gather, fill))
    return tuple(edits), tensors


def _stored(fill: Fill, shape: tuple[int, ...], dtype: torch.dtype, tensors: dict[str, torch.Tensor]) -> Fill:
    if fill.initializer in CONSTANTS:
        return fill
    new = derived_slice(fill, shape, dtype)
    digest = digest_of(new)
    tensors[digest] = new
    return Fill(fill.initializer, fill.arguments, fill.seed, digest)
