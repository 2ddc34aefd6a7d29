"""Which units are worth keeping when a layer is narrowed."""

from __future__ import annotations

import torch
from torch import nn

from esper_es.projections.live.names import tensor_at
from esper_es.tracing import WidthGroup


def l2_importance(module: nn.Module, group: WidthGroup) -> torch.Tensor:
    """Return the L2 norm of all weights that produce each unit (Li et al. 2017, with L2 for L1).

    Args:
        module: the model.
        group: the units.

    Returns:
        ``(units,)`` float64 on the CPU.
    """
    total = torch.zeros(group.units, dtype=torch.float64)
    for member in group.members:
        if member.role != "producer":
            continue
        tensor = tensor_at(module, member.tensor).detach().double().cpu()
        squares = (
            tensor.square().movedim(member.dim, 0).flatten(1).sum(1) if tensor.ndim > 1 else tensor.square()
        )
        positions = torch.from_numpy(member.positions.astype("int64"))
        inside = positions >= 0
        total.index_add_(0, positions[inside], squares[inside])
    return total.sqrt()
