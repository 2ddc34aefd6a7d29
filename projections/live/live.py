"""The live objects that follow a model's facts."""

from __future__ import annotations

from typing import Any

from attrs import field, frozen
from torch import nn
from torch.optim import Optimizer

from esper_es.projections.live.followers import Follower


@frozen(eq=False)
class Live:
    """What a trainer holds: these objects are changed in place and never replaced.

    Attributes:
        module: the user's own module.
        optimizer: its optimizer, if any.
        scheduler: anything with ``state_dict`` and ``load_state_dict``, e.g. an LR scheduler.
        scaler: a ``torch.amp.GradScaler``.
        followers: averages of the module, which are changed along with it.
    """

    module: nn.Module
    optimizer: Optimizer | None = None
    scheduler: Any = None
    scaler: Any = None
    followers: list[Follower] = field(factory=list)
