"""Averages of a live module (EMA, SWA): copies of it that change along with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from attrs import frozen
from torch import nn
from torch.optim.swa_utils import AveragedModel

from esper_es.domain.architecture import TRANSIENT
from esper_es.projections.live.journal import Journal
from esper_es.projections.live.names import named_tensors


@frozen(eq=False)
class Follower:
    """A copy of a live module.

    Attributes:
        average: what the user holds.
        module: the copy; ``average`` itself, or a child of it.
    """

    average: nn.Module
    module: nn.Module

    @contextmanager
    def staying_frozen(self, journal: Journal) -> Iterator[None]:
        """Let new parts be like the copy: without gradients if it has none, in its mode."""
        frozen = not any(parameter.requires_grad for parameter in self.module.parameters())
        known = set(self.module.modules())
        yield
        for part in self.module.modules():
            if part not in known:
                journal.set_attribute(part, "training", self.module.training)
        if frozen:
            for parameter in self.module.parameters():
                journal.set_requires_grad(parameter, False)

    def restart(self, module: nn.Module, journal: Journal) -> None:
        """Begin the average anew, from a module of the same structure."""
        mine = {name: tensor for name, tensor, _ in named_tensors(self.module)}
        for name, tensor, role in named_tensors(module):
            if name not in mine and role == TRANSIENT:
                continue
            journal.set_storage(mine[name], tensor.detach().clone().to(mine[name].device))
        if isinstance(self.average, AveragedModel):
            journal.set_storage(self.average.n_averaged, torch.zeros_like(self.average.n_averaged))
