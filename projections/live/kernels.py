"""Kernels: what can grow in a seed. Each is a branch ``r(x)`` of the shape of ``x`` whose output starts at 0.

A slot adds ``alpha * r(x)`` to ``x``. A kernel is composed of registered layer kinds, so that a log holds all
of it and a replay does not need this registry. Its last layer is affine: folding multiplies it by alpha.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attrs import frozen
from torch import nn

from esper_es.domain.canonical import Json
from esper_es.domain.errors import Refused, UsageError
from esper_es.domain.whole_numbers import whole
from esper_es.projections.live.modules import NoOp


@frozen
class KernelSite:
    """Where a kernel grows.

    Attributes:
        channels: size of the channel dimension.
        spatial: dimensions behind the channels: 2 for ``(N, C, H, W)``, 1 for ``(N, C, L)``, 0 for ``(..., C)``.
    """

    channels: int
    spatial: int

    def mixing(self, incoming: int, outgoing: int, bias: bool = True) -> nn.Module:
        """Return a layer that mixes channels position by position."""
        if self.spatial == 0:
            return nn.Linear(incoming, outgoing, bias=bias)
        return self.convolution(incoming, outgoing, 1, bias)

    def convolution(self, incoming: int, outgoing: int, size: int, bias: bool = True) -> nn.Module:
        """Return a convolution that keeps positions.

        Raises:
            Refused: where there are none.
        """
        if self.spatial not in (1, 2):
            raise Refused(
                "this kernel convolves; it grows only after layers with (N, C, L) or (N, C, H, W)", "kernel"
            )
        cls = nn.Conv2d if self.spatial == 2 else nn.Conv1d
        return cls(incoming, outgoing, size, padding=size // 2, bias=bias)

    def norm(self, channels: int) -> nn.Module:
        """Return a normalisation over channels."""
        return nn.LayerNorm(channels) if self.spatial == 0 else nn.GroupNorm(1, channels)


KernelBuilder = Callable[..., list[nn.Module]]

_KERNELS: dict[str, tuple[KernelBuilder, Mapping[str, int]]] = {}


def kernel(name: str, **defaults: int) -> Callable[[KernelBuilder], KernelBuilder]:
    """Register a kernel: a function of a site and integer arguments that returns layers.

    The last layer must be affine (its ``weight`` and ``bias`` are zeroed at birth), or the only one a ``NoOp``.

    Raises:
        UsageError: if the name is taken.
    """

    def register(builder: KernelBuilder) -> KernelBuilder:
        if name in _KERNELS:
            raise UsageError(f"kernel {name!r} is registered already")
        _KERNELS[name] = (builder, defaults)
        return builder

    return register


def kernel_arguments(name: str, arguments: Mapping[str, Json]) -> dict[str, int]:
    """Return a kernel's arguments with defaults filled in.

    Raises:
        UsageError: if the kernel is unknown, or an argument unknown or not a positive integer.
    """
    if not isinstance(name, str) or name not in _KERNELS:
        raise UsageError(f"unknown kernel {name!r}; known are {', '.join(sorted(_KERNELS))}")
    _, defaults = _KERNELS[name]
    if unknown := set(arguments) - set(defaults):
        takes = ", ".join(sorted(defaults)) or "no arguments"
        raise UsageError(f"kernel {name!r} takes {takes}, not {', '.join(map(repr, sorted(unknown)))}")
    arguments = {key: whole(value) for key, value in arguments.items()}
    for key, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UsageError(f"kernel argument {key!r} must be a positive integer, got {value!r}")
    return {**defaults, **arguments}


def build_kernel(name: str, site: KernelSite, arguments: Mapping[str, int]) -> nn.Sequential:
    """Return a kernel's module. Its last layer is not zeroed yet; see ``output_tensors``.

    Raises:
        Refused: if the kernel can't grow there.
    """
    builder, _ = _KERNELS[name]
    return nn.Sequential(*builder(site, **arguments))


def output_tensors(kernel_module: nn.Module) -> tuple[str, ...]:
    """Return the names of the tensors of a kernel's last layer: zero at birth, scaled when alpha is folded."""
    children = list(kernel_module.named_children())
    if not children:
        return ()
    name, last = children[-1]
    return tuple(f"{name}.{local}" for local, _ in last.named_parameters(recurse=False))


@kernel("noop")
def _noop(site: KernelSite) -> list[nn.Module]:
    return [NoOp()]


@kernel("norm")
def _norm(site: KernelSite) -> list[nn.Module]:
    return [site.norm(site.channels)]


@kernel("conv_small", kernel_size=3)
def _conv_small(site: KernelSite, kernel_size: int) -> list[nn.Module]:
    if kernel_size % 2 == 0:
        raise Refused(f"conv_small needs an odd kernel_size to keep positions, got {kernel_size}", "kernel")
    return [
        site.convolution(site.channels, site.channels, kernel_size, bias=False),
        site.norm(site.channels),
        nn.ReLU(),
        site.mixing(site.channels, site.channels),
    ]


@kernel("bottleneck", reduction=4)
def _bottleneck(site: KernelSite, reduction: int) -> list[nn.Module]:
    inner = max(site.channels // reduction, 1)
    middle: list[nn.Module] = [nn.ReLU()]
    if site.spatial:
        middle = [nn.ReLU(), site.convolution(inner, inner, 3), nn.ReLU()]
    return [site.mixing(site.channels, inner), *middle, site.mixing(inner, site.channels)]


@kernel("lora", rank=4)
def _lora(site: KernelSite, rank: int) -> list[nn.Module]:
    """Low-rank adaptation (Hu et al. 2021)."""
    return [site.mixing(site.channels, rank, bias=False), site.mixing(rank, site.channels, bias=False)]


@kernel("mlp", expansion=4)
def _mlp(site: KernelSite, expansion: int) -> list[nn.Module]:
    inner = site.channels * expansion
    return [
        site.norm(site.channels),
        site.mixing(site.channels, inner),
        nn.GELU(),
        site.mixing(inner, site.channels),
    ]
