"""Initial tensors, derived from a recorded seed: on the CPU, by a generator of their own, then moved.

No generator is stable across torch releases; exact replay therefore loads the recorded bytes and uses this
only where a log is replayed without them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn

from esper_es.domain.edits import Fill
from esper_es.domain.errors import UsageError
from esper_es.projections.live.rng import preserved_rng

Initializer = Callable[[torch.Tensor, Mapping[str, float], torch.Generator], None]

CONSTANTS: Mapping[str, float] = {"zeros": 0.0, "ones": 1.0}


def _kaiming(tensor: torch.Tensor, arguments: Mapping[str, float], generator: torch.Generator) -> None:
    """He et al. 2015, uniform, with torch's default gain for its own layers (a = sqrt 5).

    Entries that a planner computed from others (``"given"``) are drawn like this where their bytes can't be had.
    """
    bound = 1.0 / math.sqrt(max(arguments["fan_in"], 1.0))
    tensor.uniform_(-bound, bound, generator=generator)


def _kaiming_relu(tensor: torch.Tensor, arguments: Mapping[str, float], generator: torch.Generator) -> None:
    """He et al. 2015, uniform, gain of ReLU."""
    bound = math.sqrt(6.0 / max(arguments["fan_in"], 1.0))
    tensor.uniform_(-bound, bound, generator=generator)


def _xavier(tensor: torch.Tensor, arguments: Mapping[str, float], generator: torch.Generator) -> None:
    """Glorot and Bengio 2010, uniform."""
    bound = math.sqrt(6.0 / max(arguments["fan_in"] + arguments["fan_out"], 1.0))
    tensor.uniform_(-bound, bound, generator=generator)


def _normal(tensor: torch.Tensor, arguments: Mapping[str, float], generator: torch.Generator) -> None:
    tensor.normal_(0.0, arguments["std"], generator=generator)


def _identity(tensor: torch.Tensor, arguments: Mapping[str, float], generator: torch.Generator) -> None:
    """Identity matrix or Dirac convolution, cut or padded with zeros to the shape (Net2Net, Chen et al. 2016)."""
    tensor.zero_()
    centre = tuple(size // 2 for size in tensor.shape[2:])
    for channel in range(min(tensor.shape[:2])):
        tensor[(channel, channel, *centre)] = 1.0


INITIALIZERS: Mapping[str, Initializer] = {
    "kaiming": _kaiming_relu,
    "torch_default": _kaiming,
    "xavier": _xavier,
    "normal": _normal,
    "identity": _identity,
    "given": _kaiming,
}


def derived_slice(fill: Fill, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Return the new entries of a resized tensor, drawn again from the recorded seed; on the CPU.

    Raises:
        UsageError: for an unknown initializer.
    """
    if fill.initializer in CONSTANTS:
        return torch.full(shape, CONSTANTS[fill.initializer], dtype=dtype, device="cpu")
    if fill.initializer not in INITIALIZERS:
        known = sorted((*CONSTANTS, *INITIALIZERS))
        raise UsageError(f"unknown initializer {fill.initializer!r}; known are {known}")
    values = torch.empty(shape, dtype=torch.float32, device="cpu")
    INITIALIZERS[fill.initializer](values, fill.arguments, torch.Generator().manual_seed(fill.seed))
    return values.to(dtype)


def seeded(seed: int, build: Callable[[], nn.Module], device: str = "cpu") -> nn.Module:
    """Build a module with torch's own initialisation from ``seed``, on a device whatever the default is; the ambient
    generators, Python's and NumPy's too, are untouched."""
    with preserved_rng(), torch.device(device):
        torch.default_generator.manual_seed(seed)
        return build()
