"""Hosts, turned back into modules of their own classes: what connections added becomes plain modules and hooks."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from torch import nn
from torch.fx import GraphModule, Tracer

from esper_es.domain.architecture import Connection, join_path, relative_path, split_path
from esper_es.projections.live.attributes import forget_attributes
from esper_es.projections.live.bus import Bus
from esper_es.projections.live.describe import connections_of
from esper_es.projections.live.free_heads import FreeHeadsAttention, has_free_heads
from esper_es.projections.live.fused_paths import may_be_fused
from esper_es.projections.live.hosting import (
    After,
    Stage,
    bus_of,
    original_class,
    stages_of,
)
from esper_es.projections.live.journal import Journal
from esper_es.projections.live.modules import Bypass
from esper_es.projections.live.names import module_at
from esper_es.projections.live.structures import on_stream
from esper_es.projections.live.twins import handing_over, standing_by, twin_of
from esper_es.projections.live.wiring import relink


class RunsStage:
    """A forward hook that does a host's part in a connection."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        return on_stream(output, self.stage)


class ClearsBus:
    """A hook before the root's forward that drops what the last pass left on the bus."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus

    def __call__(self, module: nn.Module, args: Any) -> None:
        self.bus.begin()


class EndsPass:
    """A hook behind the root's forward, failed or not, that lets its backward pass find the values of the bus again."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        self.bus.end(output)


def unhosted(root: nn.Module, of_tensors: Collection[str]) -> nn.Module:
    """Turn a copy of a live model into one without swapped classes.

    Modules of ours become ``torch.fx.GraphModule``; but for hosts, as that loses its hooks when it is copied. A
    container in which skips begin and end becomes one that runs them. Other connections become forward hooks
    of their hosts, which keep class, children and names.

    Args:
        root: without hooks of the user's; changed in place, and not to be used afterwards if another one is returned.
        of_tensors: paths of modules that ran and returned nothing but a tensor.
    """
    bus = bus_of(root)
    for path, module in list(root.named_modules()):
        if isinstance(module, Bypass) and may_be_fused(root, path):
            module.register_forward_hook(standing_by())
        elif not stages_of(module) and (twin := twin_of(module)) is not None:
            root = _replaced(root, path, module, twin)
            relink(Journal(), root, path)
    for path in _containers_of_skips(root, of_tensors):
        container = module_at(root, path)
        root = _replaced(root, path, container, _running_its_skips(container, bus))
    for path, module in list(root.named_modules()):
        _hook(path, module, path in of_tensors)
    if bus is not None:
        bus.clear()
        root.__dict__.pop("_esper_bus", None)
        if any(_is_ours(hook) for part in root.modules() for hook in part._forward_hooks.values()):
            root.register_forward_pre_hook(ClearsBus(bus))
            root.register_forward_hook(EndsPass(bus), always_call=True)
    for module in root.modules():
        module.__class__ = FreeHeadsAttention if has_free_heads(module) else original_class(module)
        forget_attributes(module)
    return root


def _is_ours(hook: object) -> bool:
    return isinstance(hook, RunsStage)


def ours_in(root: nn.Module) -> tuple[str, ...]:
    """Return the paths of modules that need a class of ours: by themselves, or by a hook."""
    ours = __name__.split(".")[0]
    return tuple(
        path
        for path, module in root.named_modules()
        if any(
            type(thing).__module__.split(".")[0] == ours
            for thing in (module, *module._forward_hooks.values(), *module._forward_pre_hooks.values())
        )
    )


def _replaced(root: nn.Module, path: str, old: nn.Module, new: nn.Module) -> nn.Module:
    """Put a module in the place of another, wherever that stands; return the root."""
    if not path:
        return new
    for parent in root.modules():
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new
    return root


def _containers_of_skips(root: nn.Module, of_tensors: Collection[str]) -> Iterator[str]:
    """Yield the paths of sequences in which every connection of a direct child begins and ends."""
    ends: dict[str, list[Connection]] = {}
    for connection in connections_of(root):
        for path in dict.fromkeys((connection.source, connection.target)):
            ends.setdefault(split_path(path)[0], []).append(connection)
    for path, connections in ends.items():
        container = module_at(root, path)
        inside = {join_path(path, name) for name in container._modules}
        if (
            original_class(container) is nn.Sequential
            and (path in of_tensors or not path)
            and not stages_of(container)
            and all({c.source, c.target} <= inside & set(of_tensors) for c in connections)
            and all(c.via is None or relative_path(c.via, path) is not None for c in connections)
        ):
            yield path


class _SkipTracer(Tracer):
    """Records a sequence of modules, each as one call, and what their stages do behind them."""

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return True

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = super().call_module(m, forward, args, kwargs)
        for stage in stages_of(m):
            output = stage(output)
        return output


def _running_its_skips(container: nn.Module, bus: Bus | None) -> nn.Module:
    container.__class__ = original_class(container)
    assert bus is not None
    bus.begin()
    graph = _SkipTracer().trace(container)
    bus.end(())
    graph._tracer_cls = Tracer
    for module in container.children():
        module.__dict__.pop("_esper_stages", None)
    return GraphModule(container, graph, "Sequential")


def _hook(path: str, module: nn.Module, of_tensor: bool) -> None:
    """Let forward hooks do what the stages of a host did."""
    for stage in module.__dict__.pop("_esper_stages", ()):
        plain = type(stage) is After and of_tensor
        module.register_forward_hook(handing_over(stage.module) if plain else RunsStage(stage))
