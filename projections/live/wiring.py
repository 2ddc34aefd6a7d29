"""Connections, put onto and taken off live modules."""

from __future__ import annotations

from torch import nn

from esper_es.domain.architecture import Connection
from esper_es.projections.live.bus import Bus
from esper_es.projections.live.free_heads import has_free_heads, may_free_heads
from esper_es.projections.live.fused_paths import step_aside, step_back
from esper_es.projections.live.hosting import (
    HEARD,
    STANDING,
    After,
    Join,
    Stage,
    Tap,
    bus_of,
    hosted_class,
    original_class,
    stages_of,
)
from esper_es.projections.live.journal import Journal
from esper_es.projections.live.names import module_at


def rehost(journal: Journal, root: nn.Module, path: str, connection: Connection) -> None:
    """Let the module at ``path`` play its part in a connection, after the parts it already plays."""
    module = module_at(root, path)
    stage = _stage(journal, root, path, connection)
    stages = sorted((*stages_of(module), stage), key=lambda s: s.connection.order)
    _set_stages(journal, module, tuple(stages))
    step_aside(journal, root, path, HEARD)


def relink(journal: Journal, root: nn.Module, path: str) -> None:
    """Let connections that run the module at ``path`` run the one that stands there now."""
    for module in list(root.modules()):
        stages = stages_of(module)
        if not any(stage.connection.via == path for stage in stages):
            continue
        new = tuple(
            _with_module(stage, module_at(root, path)) if stage.connection.via == path else stage
            for stage in stages
        )
        _set_stages(journal, module, new)


def _with_module(stage: Stage, module: nn.Module) -> Stage:
    if isinstance(stage, After):
        return After(stage.connection, module)
    if isinstance(stage, Join):
        return Join(stage.connection, stage.bus, module)
    return stage


def without(journal: Journal, root: nn.Module, connection_id: str) -> None:
    """Take a connection off every module that plays a part in it."""
    for module in list(root.modules()):
        stages = stages_of(module)
        left = tuple(stage for stage in stages if stage.connection.id != connection_id)
        if len(left) != len(stages):
            _set_stages(journal, module, left)
    if not any(isinstance(stage, Tap) for module in root.modules() for stage in stages_of(module)):
        _drop_bus(journal, root)
    step_back(journal, root)


def suit_heads(journal: Journal, root: nn.Module, path: str) -> None:
    """Let an attention layer run as its heads need it, after their width may have become their own or its stream's."""
    module = module_at(root, path)
    if has_free_heads(module):
        _become_host(journal, module)
        step_aside(journal, root, path, STANDING)
    elif may_free_heads(original_class(module)):
        _drop_hook(journal, module, STANDING)
        _leave_if_idle(journal, module)
        step_back(journal, root)


def _stage(journal: Journal, root: nn.Module, path: str, connection: Connection) -> Stage:
    via = None if connection.via is None else module_at(root, connection.via)
    if connection.kind == "after":
        if via is None:
            raise ValueError(f"connection {connection.id!r} runs no module")
        return After(connection, via)
    bus = _bus(journal, root)
    return Tap(connection, bus) if path == connection.source else Join(connection, bus, via)


def _bus(journal: Journal, root: nn.Module) -> Bus:
    bus = bus_of(root)
    if bus is None:
        bus = Bus()
        _become_host(journal, root)
        journal.set_attribute(root, "_esper_bus", bus)
    return bus


def _drop_bus(journal: Journal, root: nn.Module) -> None:
    if bus_of(root) is not None:
        journal.set_item(root.__dict__, "_esper_bus", None)
        _leave_if_idle(journal, root)


def _set_stages(journal: Journal, module: nn.Module, stages: tuple[Stage, ...]) -> None:
    if stages:
        _become_host(journal, module)
    journal.set_attribute(module, "_esper_stages", stages)
    _leave_if_idle(journal, module)


def _become_host(journal: Journal, module: nn.Module) -> None:
    hosted = hosted_class(original_class(module))
    if type(module) is not hosted:
        journal.set_class(module, hosted)


def _leave_if_idle(journal: Journal, module: nn.Module) -> None:
    """Give a module that hosts nothing its own class back, and leave no trace."""
    if module.__dict__.get("_esper_stages") or module.__dict__.get("_esper_bus") is not None:
        return
    _drop_hook(journal, module, HEARD)
    if has_free_heads(module):
        return
    journal.set_class(module, original_class(module))
    attributes = {k: v for k, v in module.__dict__.items() if k not in ("_esper_stages", "_esper_bus")}
    journal.replace_items(module.__dict__, attributes)


def _drop_hook(journal: Journal, module: nn.Module, key: int) -> None:
    if key in module._forward_hooks:
        hooks = {other: hook for other, hook in module._forward_hooks.items() if other != key}
        journal.replace_items(module._forward_hooks, hooks)
