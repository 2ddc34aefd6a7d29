"""What the zoo keeps of a model: how to build it, what it takes, and where surgery on its depth is tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from attrs import field, frozen
from torch import nn

Inputs = Mapping[str, Any] | tuple[Any, ...]


@frozen
class Species:
    """One kind of model, tiny, with sizes that can be told apart.

    Attributes:
        name: in the table and in the log.
        build: makes a model.
        inputs: makes what it takes: keyword arguments, or positional ones.
        insert: the layer after which one is inserted, as a residual branch, and the layer's spec.
        remove: the layer to take out.
        skip: two layers to connect.
        blueprint: registered name, for models that neither library makes.
        units: how many come or go at once.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    insert: tuple[str, Mapping[str, Any]]
    remove: str
    skip: tuple[str, str]
    blueprint: str | None = field(default=None, kw_only=True)
    units: int = field(default=1, kw_only=True)


def tokens() -> dict[str, Any]:
    """Two sequences of nine tokens."""
    return {"input_ids": torch.randint(3, 97, (2, 9))}


def images(size: int = 32) -> tuple[torch.Tensor]:
    """Two square images of three channels."""
    return (torch.randn(2, 3, size, size),)


def linear(width: int) -> dict[str, Any]:
    return {"type": "linear", "in_features": width, "out_features": width}


def conv(width: int) -> dict[str, Any]:
    return {"type": "conv2d", "in_channels": width, "out_channels": width}
