"""Wider residual streams under norms that mix all channels.

A LayerNorm sees the mean and the variance of all channels. If every new channel carries the mean of the old ones,
the mean stays and the variance shrinks by ``d / (d + k)``; the norm's weight and epsilon make up for that, and the
norm returns zero in the new channels (LEMON, Wang et al. 2023). Under an RMSNorm new channels carry zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

import torch
from attrs import frozen
from torch import nn

from esper_es.domain.edits import Edit, Fill, ScaleTensor, SetAttribute
from esper_es.planning.resizing import Resizing
from esper_es.planning.widths.fills import GIVEN, Filled, Slot, drawn, fans, neutral
from esper_es.projections.live.names import tensor_at

EPSILONS = ("eps", "variance_epsilon", "epsilon", "layer_norm_eps", "norm_eps")


@frozen(eq=False)
class Stream:
    """New channels carry the mean of the old ones, or zeros, and the norms make up for them.

    Attributes:
        root: the live model; only read.
        mean: whether they carry the mean.
        readers_drawn: whether what reads new channels gets drawn weights, which changes nothing where it reads them
            behind a norm; zeros otherwise.
    """

    root: nn.Module
    mean: bool
    readers_drawn: bool

    def fill(self, slot: Slot) -> Filled:
        if {"producer", "table"} & set(slot.member.roles) or (self.mean and self._scales_a_branch(slot)):
            return self.produced(slot)
        fill = neutral(slot)
        if fill is None:
            fill = drawn(slot, "kaiming") if self.readers_drawn else Fill("zeros")
        return fill, None

    def _scales_a_branch(self, slot: Slot) -> bool:
        """Whether a tensor scales channels that no norm has mixed yet: the mean of a branch that enters the stream is
        that of its rows, scaled alike."""
        mixing = {reduction.module for reduction in slot.resizing.group.reduced_by}
        return slot.member.role == "affine" and slot.member.module not in mixing

    def produced(self, slot: Slot) -> Filled:
        """What makes new channels of the stream."""
        if not self.mean:
            return Fill("zeros"), None
        dim, resizing = slot.member.dim, slot.resizing
        assert resizing.growth is not None
        standing = torch.from_numpy(resizing.standing)
        old = slot.tensor().index_select(dim, standing.flatten())
        old = old.reshape(*old.shape[:dim], *standing.shape, *old.shape[dim + 1 :])
        means = old.double().mean(dim)
        wanted = torch.from_numpy(resizing.growth.occurrence[resizing.growth.unit >= 0])
        entries = means.index_select(dim, wanted).to(old.dtype)
        return Fill(GIVEN, {"fan_in": fans(slot)["fan_in"]}, slot.seed), entries

    def finish(self, resizings: Sequence[Resizing]) -> tuple[Edit, ...]:
        mixing = {reduction.module for r in resizings for reduction in r.group.reduced_by}
        return renormed(self.root, [r for r in resizings if r.member.module in mixing])


def renormed(root: nn.Module, resizings: Sequence[Resizing], *, scaled: bool = True) -> tuple[Edit, ...]:
    """Return what makes norms return in old channels what they returned, new ones being silent.

    Args:
        root: the live model; only read.
        resizings: of their weights and biases, and others, which are left alone.
        scaled: whether their weights make up for the number of channels, or only their epsilons.
    """
    edits: list[Edit] = []
    for r in resizings:
        if r.member.role != "affine" or r.member.tensor.endswith("bias"):
            continue
        if scaled:
            edits.append(ScaleTensor(r.member.tensor, sqrt(r.old_size / r.new_size)))
        module = root.get_submodule(r.member.module)
        name = next((name for name in EPSILONS if name in module.__dict__), None)
        if name is not None:
            epsilon = _epsilon(module, name, tensor_at(root, r.member.tensor).dtype)
            edits.append(SetAttribute(r.member.module, name, epsilon * r.old_size / r.new_size))
    return tuple(edits)


def _epsilon(module: Any, name: str, dtype: torch.dtype) -> float:
    """The epsilon of a norm; None stands for that of the dtype."""
    value = getattr(module, name)
    return float(torch.finfo(dtype).eps if value is None else value)
