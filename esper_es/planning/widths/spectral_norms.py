"""Spectral norms of weights that change.

torch divides a weight ``W`` by ``u W v`` and estimates ``u`` and ``v``, the first singular vectors, anew in every
forward pass in training, by one more step of the power method. In evaluation it takes them as they are. So that what
stays of a weight is divided by the number that it was divided by, ``u`` is scaled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm

from esper_es.domain.architecture import join_path
from esper_es.domain.edits import Edit, ScaleTensor
from esper_es.domain.errors import Refused
from esper_es.planning.scene import Scene
from esper_es.planning.trial import tried

LEAST = 1e-3
"""Share of a spectral norm that must be left in what stays of ``u`` and ``v``: less is no estimate of anything."""


@contextmanager
def steady(*roots: nn.Module) -> Iterator[None]:
    """Let whoever looks at a parametrized weight see it as in evaluation: in training, looking is a step of the power
    method, after which the model is not what it was."""
    parts = [
        part
        for root in roots
        for module in root.modules()
        if isinstance(module, ParametrizationList)
        for part in module.modules()
        if part.training
    ]
    try:
        for part in parts:
            part.training = False
        yield
    finally:
        for part in parts:
            part.training = True


def kept_norms(
    scene: Scene, edits: Sequence[Edit], tensors: Mapping[str, torch.Tensor]
) -> tuple[ScaleTensor, ...]:
    """Return the edits after which every weight is divided by what it was divided by.

    Raises:
        Refused: if next to nothing of a spectral norm lies in what stays.
    """
    before = dict(_norms(scene.shadow))
    if not before:
        return ()
    after = tried(scene.shadow, edits, tensors, lambda: dict(_norms(scene.shadow)))
    scaled = []
    for vector, norm in before.items():
        if after[vector] == norm:
            continue
        if not after[vector] > LEAST * norm:
            raise Refused(
                f"what would stay of {vector!r} says nothing of the spectral norm of its weight ({norm:.3g}); take "
                "away fewer units at once, with training in between",
                "spectral_norm",
            )
        scaled.append(ScaleTensor(vector, norm / after[vector]))
    return tuple(scaled)


def _norms(root: nn.Module) -> Iterator[tuple[str, float]]:
    """The number by which each weight is divided, by the name of its left vector."""
    for path, module in root.named_modules():
        first = module[0] if isinstance(module, ParametrizationList) else None
        if isinstance(first, _SpectralNorm) and hasattr(first, "_u"):
            yield join_path(path, "0._u"), _norm(first.dim, module.original, first._u, first._v)
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, SpectralNorm):
                weight, u, v = (getattr(module, f"{hook.name}_{part}") for part in ("orig", "u", "v"))
                yield join_path(path, f"{hook.name}_u"), _norm(hook.dim, weight, u, v)


def _norm(dim: int, weight: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> float:
    matrix = weight.detach().double().movedim(dim, 0).flatten(1)
    return float(u.double() @ matrix @ v.double())
