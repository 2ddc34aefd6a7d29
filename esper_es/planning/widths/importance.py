"""Which units are worth keeping when a layer is narrowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from esper_es.domain.errors import UsageError
from esper_es.planning.observation import in_eval
from esper_es.projections.live.names import tensor_at
from esper_es.shadow import shadow_of
from esper_es.tracing import WidthGroup

Importance = Callable[[nn.Module, WidthGroup], torch.Tensor]
"""Gives each unit of a group a number, more for units worth keeping; shape ``(units,)``."""


def l2_importance(module: nn.Module, group: WidthGroup) -> torch.Tensor:
    """Return the L2 norm of all weights that produce each unit (Li et al. 2017, with L2 for L1).

    Args:
        module: the model.
        group: the units.

    Returns:
        ``(units,)`` float64 on the CPU.
    """
    total = torch.zeros(group.units, dtype=torch.float64, device="cpu")
    for member in group.members:
        if "producer" not in member.roles:
            continue
        tensor = tensor_at(module, member.tensor).detach().double().cpu()
        squares = (
            tensor.square().movedim(member.dim, 0).flatten(1).sum(1) if tensor.ndim > 1 else tensor.square()
        )
        positions = torch.from_numpy(member.positions.astype("int64"))
        inside = positions >= 0
        total.index_add_(0, positions[inside], squares[inside])
    return total.sqrt()


def most_important(module: nn.Module, group: WidthGroup, count: int, importance: Importance) -> list[int]:
    """Return the ordinals of the ``count`` most important units, ascending; of equals the first.

    Raises: as ``rated``.
    """
    return best(rated(module, group, importance), count)


def best(ranking: torch.Tensor, count: int) -> list[int]:
    """Return the places of the largest numbers, ascending; of equals the first."""
    order = torch.argsort(ranking.double(), descending=True, stable=True)
    return sorted(order[:count].tolist())


def rated(module: nn.Module, group: WidthGroup, importance: Importance) -> torch.Tensor:
    """Return how important each unit is.

    A function of the caller's gets a copy of the model in eval mode, with gradients enabled: whatever it runs, the
    model stays as it is.

    Raises:
        UsageError: if ``importance`` fails, or does not return one finite number per unit.
    """
    try:
        if importance is l2_importance:
            ranking = l2_importance(module, group)
        else:
            copied = shadow_of(module)
            with torch.enable_grad():
                answer: Any = in_eval(copied, lambda: importance(copied, group))
            ranking = torch.as_tensor(answer).detach().cpu()
    except Exception as error:
        raise UsageError(f"importance failed on {group.tensor!r}: {type(error).__name__}: {error}") from error
    if tuple(ranking.shape) != (group.units,) or ranking.is_complex():
        raise UsageError(
            f"importance must return one number for each of the {group.units} units of {group.tensor!r}, a tensor of "
            f"shape ({group.units},); got shape {tuple(ranking.shape)} of {ranking.dtype}"
        )
    if not bool(torch.isfinite(ranking.double()).all()):
        raise UsageError(f"importance returned numbers for {group.tensor!r} that are not finite")
    return ranking
