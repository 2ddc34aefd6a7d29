"""Tensors that modules computed and kept beside their parameters: position biases by device, say, in evaluation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

_OF_TORCH = frozenset(vars(nn.Module()))


def kept_tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    """Yield the tensors in a module's plain attributes, and in dictionaries and lists there."""
    for name, value in vars(module).items():
        if name not in _OF_TORCH:
            yield from _tensors_in(value)


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif type(value) in (dict, OrderedDict):
        for item in value.values():
            yield from _tensors_in(item)
    elif type(value) in (list, tuple):
        for item in value:
            yield from _tensors_in(item)


def forget_kept(parts: Iterable[nn.Module]) -> None:
    """Let modules forget what they computed from parameters that are no longer what they were.

    Those that keep such tensors in evaluation compute them anew after ``train()``, which they override, as training
    changes the parameters (LeViT and its kin in timm). All flags are as before afterwards.
    """
    for part in parts:
        if type(part).train is not nn.Module.train and any(True for _ in kept_tensors(part)):
            flags = [(inner, inner.training) for inner in part.modules()]
            part.train()
            for inner, flag in flags:
                inner.training = flag
