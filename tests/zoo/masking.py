"""What a model would compute if some units of a group were not there: the yardstick of narrowing."""

from __future__ import annotations

import copy
from collections.abc import Collection

import torch
from torch import nn

from esper_es.tracing import WidthGroup


def silenced(model: nn.Module, group: WidthGroup, kept: Collection[int]) -> nn.Module:
    """Return a copy in which nothing reads the other units: the weights that would are zero there.

    Where no weight reads the units (queries and keys meet each other), what makes them is zero.
    """
    copied = copy.deepcopy(model)
    tensors = dict(copied.named_parameters(remove_duplicate=False))
    readers = [m for m in group.members if "consumer" in m.roles]
    with torch.no_grad():
        for member in readers or [m for m in group.members if m.tensor in tensors]:
            gone = [
                index
                for index, unit in enumerate(member.positions.tolist())
                if unit >= 0 and unit not in kept
            ]
            tensor = tensors[member.tensor]
            tensor[(slice(None),) * member.dim + (gone,)] = 0
    return copied
