"""Edits of a width surgery: one for each resized dimension, new entries by digest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from attrs import field, frozen
from torch import nn

from esper_es.domain.edits import Edit, Fill, ResizeTensor
from esper_es.planning.resizing import Resizing
from esper_es.planning.scene import Scene
from esper_es.planning.widths.fills import Filling, Slot
from esper_es.projections.live.gather import gathered
from esper_es.projections.live.initializers import CONSTANTS, derived_slice
from esper_es.projections.live.names import tensor_at
from esper_es.vault import digest_of


@frozen(eq=False)
class Filled:
    """Edits, and the tensors that they name.

    Attributes:
        edits: in order.
        tensors: new slices by digest.
    """

    edits: tuple[Edit, ...]
    tensors: dict[str, torch.Tensor]


@frozen(eq=False)
class _Working:
    """Tensors as they become, computed only when somebody looks."""

    root: nn.Module
    steps: dict[str, list[tuple[Resizing, torch.Tensor | None]]] = field(factory=dict)
    known: dict[str, tuple[int, torch.Tensor]] = field(factory=dict)

    def shape(self, name: str) -> tuple[int, ...]:
        shape = list(tensor_at(self.root, name).shape)
        for resizing, _ in self.steps.get(name, ()):
            shape[resizing.member.dim] = resizing.new_size
        return tuple(shape)

    def tensor(self, name: str) -> torch.Tensor:
        done, tensor = self.known.get(name) or (0, tensor_at(self.root, name).detach().cpu())
        steps = self.steps.get(name, [])
        for resizing, new in steps[done:]:
            tensor = gathered(tensor, resizing.member.dim, resizing.taken, new)
        self.known[name] = (len(steps), tensor)
        return tensor

    def resize(self, resizing: Resizing, new: torch.Tensor | None) -> None:
        self.steps.setdefault(resizing.member.tensor, []).append((resizing, new))


def filled(scene: Scene, resizings: Sequence[Resizing], filling_of: Callable[[Resizing], Filling]) -> Filled:
    """Return the edits that resize every dimension, new entries filled in."""
    edits: list[Edit] = []
    tensors: dict[str, torch.Tensor] = {}
    working = _Working(scene.live.module)
    for number, resizing in enumerate(resizings):
        member = resizing.member
        fill, new = None, None
        if resizing.taken.added:
            shape = working.shape(member.tensor)
            seed = scene.seed(f"{number}/{member.tensor}/{member.dim}")
            slot = Slot(resizing, shape, seed, partial(working.tensor, member.tensor))
            fill, new = filling_of(resizing).fill(slot)
            dtype = tensor_at(scene.live.module, member.tensor).dtype
            slice_shape = (*shape[: member.dim], resizing.gather.added, *shape[member.dim + 1 :])
            if fill.initializer in CONSTANTS:
                new = derived_slice(fill, slice_shape, dtype)
            else:
                fill, new = _stored(fill, new, slice_shape, dtype, tensors)
        working.resize(resizing, new)
        edits.append(ResizeTensor(member.tensor, member.dim, resizing.taken, fill))
    by_filling: dict[int, tuple[Filling, list[Resizing]]] = {}
    for resizing in resizings:
        filling = filling_of(resizing)
        by_filling.setdefault(id(filling), (filling, []))[1].append(resizing)
    for filling, own in by_filling.values():
        edits += filling.finish(own)
    return Filled(tuple(edits), tensors)


def _stored(
    fill: Fill,
    entries: torch.Tensor | None,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    tensors: dict[str, torch.Tensor],
) -> tuple[Fill, torch.Tensor]:
    new = derived_slice(fill, shape, dtype) if entries is None else entries.contiguous()
    if not new.view(torch.uint8).any():
        return Fill("zeros"), new
    digest = digest_of(new)
    tensors[digest] = new
    return Fill(fill.initializer, fill.arguments, fill.seed, digest), new
