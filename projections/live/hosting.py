"""Added data flow on modules whose ``forward`` is not ours.

A host's class is swapped for a cached subclass of its own class, whose ``forward`` calls the original and then
the stages that connections put there. FSDP2 and ModelOpt host the same way. ``isinstance`` holds;
``type(m) is X`` does not.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from esper_es.domain.architecture import Connection
from esper_es.projections.live.bus import Bus, is_symbolic
from esper_es.projections.live.free_heads import attend, may_free_heads
from esper_es.projections.live.fusion import Fusion
from esper_es.projections.live.structures import on_stream

COPY = "-copy"
"""Behind how a skip joins: the tap keeps a copy, for the source's output is written in place later on."""


class After:
    """Sends the output through a module that the host's parent registers."""

    def __init__(self, connection: Connection, module: nn.Module) -> None:
        self.connection = connection
        self.module = module

    def __call__(self, output: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.module(output)
        return result


class Tap:
    """Puts the output, or a copy where it is written in place later on, on the bus."""

    def __init__(self, connection: Connection, bus: Bus) -> None:
        self.connection = connection
        self.bus = bus

    def __call__(self, output: torch.Tensor) -> torch.Tensor:
        copied = self.connection.join.endswith(COPY)
        self.bus.put(self.connection.id, output.clone() if copied else output)
        return output


class Join:
    """Adds a tapped output, or what a projection makes of it.

    A projection that takes two arguments sees the output that it joins, too.
    """

    def __init__(self, connection: Connection, bus: Bus, projection: nn.Module | None) -> None:
        self.connection = connection
        self.bus = bus
        self.projection = projection

    def __call__(self, output: torch.Tensor) -> torch.Tensor:
        if self.connection.id in self.bus.muted:
            return output
        branch = self.bus.take(self.connection).to(output)
        if isinstance(self.projection, Fusion):
            branch = self.projection(output, branch)
        elif self.projection is not None:
            branch = self.projection(branch)
        if not is_symbolic(branch) and branch.shape != output.shape:
            raise RuntimeError(
                f"skip connection {self.connection.id!r} brings {tuple(branch.shape)} to {tuple(output.shape)}; it was "
                "made for inputs on which the shapes agree"
            )
        return output + branch.to(output.dtype)


Stage = After | Tap | Join


HEARD = -1
"""Key of the hook below among a host's forward hooks; torch's own begin at 0."""

STANDING = -2
"""Key of the hook below among the forward hooks of what stands in the place of another module."""


def heard(module: nn.Module, args: Any, output: Any) -> None:
    """Do nothing: a forward hook before which torch's fused paths step aside."""


_CLASSES: dict[type[nn.Module], type[nn.Module]] = {}


def hosted_class(original: type[nn.Module]) -> type[nn.Module]:
    """Return the generated subclass of ``original`` that runs stages and, on a root, clears the bus."""
    if original not in _CLASSES:
        _CLASSES[original] = _generated(original)
    return _CLASSES[original]


def _generated(original: type[nn.Module]) -> type[nn.Module]:
    own: Callable[..., Any] = attend if may_free_heads(original) else original.forward

    def staged(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = own(self, *args, **kwargs)
        for stage in self._esper_stages:
            output = on_stream(output, stage)
        return output

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        bus: Bus | None = self._esper_bus
        if bus is None:
            return staged(self, *args, **kwargs)
        bus.begin()
        try:
            output = staged(self, *args, **kwargs)
        except BaseException:
            bus.abandon()
            raise
        bus.end(output)
        return output

    def reduce(self: Any, protocol: Any) -> Any:
        parts: Any = original.__reduce_ex__(self, protocol)
        function, arguments, *rest = parts
        if function is copyreg.__newobj__ and arguments[0] is type(self):  # type: ignore[attr-defined]
            return (_revive, (original, *arguments[1:]), *rest)
        return (function, arguments, *rest)

    body = {
        "forward": forward,
        "__reduce_ex__": reduce,
        "__module__": original.__module__,
        "__doc__": original.__doc__,
        "_esper_original": original,
        "_esper_stages": (),
        "_esper_bus": None,
    }
    return type(f"Hosted{original.__name__}", (original,), body)


def _revive(original: type[nn.Module], *arguments: Any) -> nn.Module:
    cls = hosted_class(original)
    return cls.__new__(cls, *arguments)


def original_class(module: nn.Module) -> type[nn.Module]:
    """Return the class that a module had before it became a host."""
    cls: type[nn.Module] = getattr(type(module), "_esper_original", type(module))
    return cls


def stages_of(module: nn.Module) -> tuple[Stage, ...]:
    """Return the stages that run on the output of a module."""
    stages: tuple[Stage, ...] = module.__dict__.get("_esper_stages", ())
    return stages


def bus_of(root: nn.Module) -> Bus | None:
    """Return the bus of a root that has one."""
    bus: Bus | None = root.__dict__.get("_esper_bus")
    return bus
