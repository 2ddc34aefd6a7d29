"""Where the bytes of new tensors come from while edits are applied."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import nn

from esper_es.domain.architecture import Architecture
from esper_es.domain.edits import Fill, Initial
from esper_es.domain.errors import ReplayError
from esper_es.projections.live.build import build
from esper_es.projections.live.initializers import CONSTANTS, derived_slice
from esper_es.projections.live.names import named_tensors, tensor_at
from esper_es.projections.live.tensors import TensorSource


class Material(Protocol):
    """Gives new modules their tensors, and resized tensors their new entries; all on the CPU."""

    def module(self, fragment: Architecture, initial: Initial) -> nn.Module:
        """Return a new module with its first bytes."""

    def slice(self, fill: Fill, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return the new entries of a resized tensor."""


class Derived:
    """Draws everything again from the recorded seeds.

    Bytes of modules that the caller built (``Initial.given``) can't be had this way: they get their
    layers' own initialisation. ``substituted`` counts them.
    """

    def __init__(self) -> None:
        self.substituted = 0

    def module(self, fragment: Architecture, initial: Initial) -> nn.Module:
        self.substituted += initial.given
        module = build(fragment, initial.seed)
        for name, fill in initial.fills.items():
            tensor = tensor_at(module, name)
            tensor.data = derived_slice(fill, tuple(tensor.shape), tensor.dtype)
        return module

    def slice(self, fill: Fill, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return derived_slice(fill, shape, dtype)


class Recorded:
    """Loads everything by digest, verified. Slices that lie in one flat tensor load it once."""

    def __init__(self, source: TensorSource) -> None:
        self._source = source
        self._flat: dict[torch.dtype, tuple[str, torch.Tensor]] = {}

    def module(self, fragment: Architecture, initial: Initial) -> nn.Module:
        module = build(fragment, initial.seed)
        for name, tensor, _ in named_tensors(module):
            if name in initial.tensors:
                tensor.data = _fitting(self._source.get(initial.tensors[name]), tensor, name)
        return module

    def slice(self, fill: Fill, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        if fill.initializer in CONSTANTS or fill.digest is None:
            return derived_slice(fill, shape, dtype)
        if fill.offset is not None:
            return self._part(fill.digest, fill.offset, shape, dtype)
        loaded = self._source.get(fill.digest)
        if tuple(loaded.shape) != shape or loaded.dtype != dtype:
            raise ReplayError(
                f"the recorded slice {fill.digest} is {tuple(loaded.shape)} {loaded.dtype}, "
                f"{shape} {dtype} was expected"
            )
        return loaded

    def _part(self, digest: str, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return a slice out of a flat tensor; the last one of each dtype is at hand."""
        known, flat = self._flat.get(dtype, ("", None))
        if flat is None or known != digest:
            flat = self._source.get(digest)
            self._flat[dtype] = digest, flat
        end = offset + math.prod(shape)
        if flat.dtype != dtype or flat.ndim != 1 or not 0 <= offset <= end <= len(flat):
            raise ReplayError(
                f"the recorded slices {digest} are {tuple(flat.shape)} {flat.dtype}, {shape} {dtype} was expected "
                f"from element {offset} on"
            )
        return flat.narrow(0, offset, end - offset).view(shape)


class Blank:
    """Gives shapes only: for tensors that a capture fills right afterwards."""

    def module(self, fragment: Architecture, initial: Initial) -> nn.Module:
        return build(fragment, initial.seed)

    def slice(self, fill: Fill, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, device="cpu")


class Planned:
    """Hands over what a planner has just made, by digest."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.tensors = tensors

    def get(self, digest: str) -> torch.Tensor:
        return self.tensors[digest].clone()


def _fitting(loaded: torch.Tensor, tensor: torch.Tensor, name: str) -> torch.Tensor:
    if loaded.shape != tensor.shape or loaded.dtype != tensor.dtype:
        raise ReplayError(
            f"the recorded tensor {name!r} is {tuple(loaded.shape)} {loaded.dtype}, "
            f"{tuple(tensor.shape)} {tensor.dtype} was expected"
        )
    return loaded
