"""What a model would compute if the units that narrowing took were not there: the yardstick of narrowing."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from esper_es.domain.edits import Edit, ResizeTensor
from esper_es.tracing import Trace, WidthGroup

Gone = Mapping[tuple[str, int], Sequence[int]]
"""Indices that went, by tensor and dimension."""


def gone(model: nn.Module, edits: Iterable[Edit]) -> Gone:
    """Return what some edits take from a model; several may cut one dimension, one after another."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    left: dict[tuple[str, int], list[int]] = {}
    for edit in edits:
        if isinstance(edit, ResizeTensor):
            place = (edit.tensor, edit.dim)
            there = left.get(place, list(range(tensors[edit.tensor].shape[edit.dim])))
            left[place] = [there[index] if index >= 0 else index for index in edit.gather]
    return {
        (name, dim): sorted(set(range(tensors[name].shape[dim])) - set(kept))
        for (name, dim), kept in left.items()
    }


def silenced(model: nn.Module, found: Trace, gone: Gone) -> nn.Module:
    """Return a copy in which nothing reads what went: the weights that would are zero there.

    Where channels meet each other instead of weights (queries and keys), what makes them is zero.
    """
    copied = copy.deepcopy(model)
    parameters = dict(copied.named_parameters())
    with torch.no_grad():
        for tensor, dim in _silent(found, gone):
            if tensor in parameters:
                parameters[tensor][(slice(None),) * dim + (list(gone[tensor, dim]),)] = 0
    return copied


def zeroed(model: nn.Module, gone: Gone) -> nn.Module:
    """Return a copy in which everything that went is zero, what makes it and what reads it."""
    copied = copy.deepcopy(model)
    parameters = dict(copied.named_parameters())
    with torch.no_grad():
        for (tensor, dim), indices in gone.items():
            if tensor in parameters and indices:
                parameters[tensor][(slice(None),) * dim + (list(indices),)] = 0
    return copied


def _silent(found: Trace, gone: Gone) -> set[tuple[str, int]]:
    groups: dict[frozenset[tuple[str, int]], WidthGroup] = {}
    for tensor, dim in gone:
        group = found.group_of(tensor, dim)
        groups[frozenset((m.tensor, m.dim) for m in group.members)] = group
    silent: set[tuple[str, int]] = set()
    for group in groups.values():
        readers = [m for m in group.members if "consumer" in m.roles]
        whole = group.paired or not readers
        silent |= {(m.tensor, m.dim) for m in (group.members if whole else readers)}
    return silent & set(gone)
