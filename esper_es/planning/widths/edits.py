"""Edits of a width surgery: one for each resized dimension, new entries in one flat tensor, by digest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from attrs import evolve, field, frozen
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
        tensors: the new slices, in one flat tensor for each dtype, by digest.
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


@frozen(eq=False)
class _Entries:
    """New entries of a tensor, and how they are recorded."""

    fill: Fill
    new: torch.Tensor


def filled(scene: Scene, resizings: Sequence[Resizing], filling_of: Callable[[Resizing], Filling]) -> Filled:
    """Return the edits that resize every dimension, new entries filled in."""
    working = _Working(scene.live.module)
    first_seed = scene.seed("width")
    entries: dict[int, _Entries] = {}
    for number, resizing in enumerate(resizings):
        if resizing.taken.added:
            entries[number] = _entries(working, resizing, filling_of(resizing), first_seed + number)
        working.resize(resizing, entries[number].new if number in entries else None)
    fills, tensors = _packed(entries)
    edits: list[Edit] = [
        ResizeTensor(resizing.member.tensor, resizing.member.dim, resizing.taken, fills.get(number))
        for number, resizing in enumerate(resizings)
    ]
    by_filling: dict[int, tuple[Filling, list[Resizing]]] = {}
    for resizing in resizings:
        filling = filling_of(resizing)
        by_filling.setdefault(id(filling), (filling, []))[1].append(resizing)
    for filling, own in by_filling.values():
        edits += filling.finish(own)
    return Filled(tuple(edits), tensors)


def _entries(working: _Working, resizing: Resizing, filling: Filling, seed: int) -> _Entries:
    member = resizing.member
    shape = working.shape(member.tensor)
    fill, new = filling.fill(Slot(resizing, shape, seed, partial(working.tensor, member.tensor)))
    if fill.initializer in CONSTANTS or new is None:
        slice_shape = (*shape[: member.dim], resizing.gather.added, *shape[member.dim + 1 :])
        new = derived_slice(fill, slice_shape, tensor_at(working.root, member.tensor).dtype)
    new = new.contiguous()
    return _Entries(fill if new.view(torch.uint8).any() else Fill("zeros"), new)


def _packed(entries: Mapping[int, _Entries]) -> tuple[dict[int, Fill], dict[str, torch.Tensor]]:
    """Put the slices of each dtype into one flat tensor; constants need none.

    Returns:
        The fills, which say where their slices lie, and the flat tensors by digest.
    """
    fills = {number: own.fill for number, own in entries.items()}
    stored = {number: own.new for number, own in entries.items() if own.fill.initializer not in CONSTANTS}
    tensors: dict[str, torch.Tensor] = {}
    for dtype in dict.fromkeys(new.dtype for new in stored.values()):
        slices = {number: new.view(-1) for number, new in stored.items() if new.dtype == dtype}
        flat = torch.cat([new.view(torch.uint8) for new in slices.values()]).view(dtype)
        digest, offset = digest_of(flat), 0
        tensors[digest] = flat
        for number, new in slices.items():
            fills[number] = evolve(fills[number], digest=digest, offset=offset)
            offset += len(new)
    return fills, tensors
