"""Which channels a norm of heads takes one mean of, and that mean.

A norm sees all channels of a head, those that rotary positions turn and those that they leave alone.
"""

from __future__ import annotations

import numpy as np
import torch

from esper_es.planning.heads.targets import HeadTarget
from esper_es.tracing import Member, WidthGroup
from esper_es.tracing.union_find import Ids


def normed(kind: WidthGroup) -> bool:
    """Whether weights, as those of a norm, scale the channels of heads one by one."""
    return any(member.role == "affine" for member in kind.members)


def ranks(target: HeadTarget, member: Member) -> Ids:
    """For every index the how-manieth of its unit it is at its place, behind these what all units share; -1 outside."""
    heads = target.heads.member(member.tensor, member.dim)
    unit = np.full_like(member.positions, -1) if heads is None else heads.positions
    found = np.full(len(member.positions), -1, dtype=np.int64)
    seen: dict[tuple[int, int], int] = {}
    for index in np.flatnonzero(member.positions >= 0).tolist():
        key = (int(unit[index]), int(member.positions[index]))
        found[index] = seen.get(key, 0)
        seen[key] = seen.get(key, 0) + 1
    return np.where((unit < 0) & (found >= 0), found + found[unit >= 0].max(initial=-1) + 1, found)


def numbered_heads(target: HeadTarget, member: Member) -> Ids:
    """For every index of a dimension a number that only channels of one head have which a norm sees; -1 for others.

    Queries and keys that one tensor makes are numbered apart.
    """
    heads = target.heads.member(member.tensor, member.dim)
    numbers = np.full(len(member.positions), -1, dtype=np.int64)
    for kind in (target.kind, *target.beside):
        own = kind.member(member.tensor, member.dim)
        if own is not None and normed(kind):
            unit = np.full_like(own.positions, -1) if heads is None else heads.positions
            rank = ranks(target, own) // kind.per_head
            numbers = np.where(own.positions >= 0, (unit + 1) * len(numbers) + rank, numbers)
    return numbers


def means(across: torch.Tensor, numbers: Ids, wanted: Ids) -> torch.Tensor:
    """Return, for each wanted number, the mean of the entries along the first dimension that have it."""
    known, where = np.unique(wanted, return_inverse=True)
    each = [across[torch.from_numpy(np.flatnonzero(numbers == number))].double().mean(0) for number in known]
    return torch.stack(each)[torch.from_numpy(where)].to(across.dtype)
