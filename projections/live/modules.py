"""The few modules of our own that a live model may hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from esper_es.domain.canonical import Json
from esper_es.domain.errors import UsageError
from esper_es.domain.lifecycle import ACTIVE, BLENDING, INCUBATING
from esper_es.projections.live.fusion import Fusion
from esper_es.projections.live.kinds import LayerKind, layer_kind, register
from esper_es.projections.live.results import STREAM, argument_of, attribute, filled


class Residual(nn.Module):
    """``x + body(x)``; ``body`` keeps the shape of ``x``."""

    body: nn.Module

    def __init__(self, body: nn.Module | None = None) -> None:
        super().__init__()
        if body is not None:
            self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = x + self.body(x)
        return result


class GatedResidual(nn.Module):
    """``x + gate * body(x)`` with a learnt number ``gate`` that starts at zero (ReZero, Bachlechner et al. 2021).

    So a body with weights of its own joins without changing the function; ``body`` keeps the shape of ``x``.
    """

    body: nn.Module

    def __init__(self, body: nn.Module | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        if body is not None:
            self.body = body
        self.gate = nn.Parameter(torch.zeros((), dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = x + self.gate * self.body(x)
        return result


class Bypass(nn.Module):
    """Lets one argument of a removed layer through, in the structure that the layer returned.

    Args:
        stream: which argument; see ``results.argument_of``.
        returns: template of the result; see ``results``.
        kept: attributes of the removed layer that others read, as templates; see ``results``.

    A child called ``bridge``, where there is one, maps the stream to what the layer made of it.
    """

    def __init__(
        self,
        stream: Sequence[int | str | None] = (0, None),
        returns: Json = STREAM,
        kept: Mapping[str, Json] | None = None,
    ) -> None:
        super().__init__()
        self.let_through = list(stream)
        self.returned = returns
        self.kept = dict(kept or {})
        for name, template in self.kept.items():
            setattr(self, name, attribute(template))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        stream = argument_of(self.let_through, args, kwargs)
        bridge = self._modules.get("bridge")
        return filled(self.returned, stream if bridge is None else bridge(stream), args, kwargs)


class NoOp(nn.Module):
    """Returns zeros of the shape of its input: the branch that adds nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


class _StraightThrough(torch.autograd.Function):
    """Returns the bytes of ``host``; both arguments receive the gradient."""

    @staticmethod
    def forward(host: torch.Tensor, branch: torch.Tensor) -> torch.Tensor:
        return host.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        return None

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return gradients[0], gradients[0]


class SeedSlot(nn.Module):
    """A seed: a branch whose weight alpha grows from nothing.

    While incubating, the output is the input, byte for byte; the branch sees the detached input and receives
    the gradient that its output would have (a straight-through estimator, Bengio et al. 2013). While blending
    or active, the output is ``x + alpha * kernel(x)``; at alpha 0 the branch keeps incubating, so that a
    non-finite branch can't reach the output.

    Args:
        mode: ``"incubating"``, ``"blending"`` or ``"active"``.
    """

    alpha: torch.Tensor
    kernel: nn.Module

    def __init__(self, mode: str = INCUBATING) -> None:
        super().__init__()
        if mode not in (INCUBATING, BLENDING, ACTIVE):
            raise UsageError(f"a seed slot's mode is incubating, blending or active, got {mode!r}")
        self.mode = mode
        self.register_buffer("alpha", torch.zeros(()))
        self._muted = False
        self._mixes = False

    def update_route(self) -> None:
        """Choose the path of the forward pass from mode and alpha; call after changing either."""
        self._mixes = self.mode != INCUBATING and float(self.alpha) != 0.0

    @contextmanager
    def muted(self) -> Iterator[None]:
        """Take the branch out for a while, e.g. to measure what it contributes."""
        self._muted = True
        try:
            yield
        finally:
            self._muted = False

    @contextmanager
    def mixing(self) -> Iterator[None]:
        """Let the branch take part in the forward pass for a while, whatever its alpha, e.g. to trace it."""
        mixes = self._mixes
        self._mixes = True
        try:
            yield
        finally:
            self._mixes = mixes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self._muted:
            return x
        if not self._mixes:
            if not (self.training and torch.is_grad_enabled()):
                return x
            straight: torch.Tensor = _StraightThrough.apply(x, self.kernel(x.detach()))  # type: ignore[no-untyped-call]
            return straight
        result: torch.Tensor = x + self.alpha * self.kernel(x)
        return result

    def extra_repr(self) -> str:
        return f"mode={self.mode}, alpha={float(self.alpha):.3g}"


layer_kind("residual", Residual)
layer_kind("gated_residual", GatedResidual)
layer_kind("noop", NoOp)
layer_kind("fusion", Fusion, "both", "channels", "taken_channels")


def _build_bypass(config: Mapping[str, Json]) -> nn.Module:
    return Bypass(**config)


register(
    LayerKind(
        "bypass",
        Bypass,
        {
            "stream": lambda m: m.let_through,
            "returns": lambda m: m.returned,
            "kept": lambda m: m.kept,
        },
        _build_bypass,
        {"stream": [0, None], "returns": STREAM, "kept": {}},
    )
)


def _build_slot(config: Mapping[str, Json]) -> nn.Module:
    return SeedSlot(**config)


register(LayerKind("seed_slot", SeedSlot, {"mode": lambda m: m.mode}, _build_slot, {"mode": INCUBATING}))
