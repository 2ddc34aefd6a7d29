"""The architecture value of a live module: what law 3 compares with the aggregate's."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from esper_es.domain.architecture import Architecture, Connection, ModuleNode, TensorSpec, join_path
from esper_es.projections.live.attributes import tracked_values
from esper_es.projections.live.hosting import Stage, original_class, stages_of
from esper_es.projections.live.kinds import kind_of
from esper_es.projections.live.names import dtype_name, own_tensors

OPAQUE = "opaque:"


def describe(root: nn.Module) -> Architecture:
    """Return the architecture of a module. Nothing is run and nothing is changed."""
    nodes: dict[str, ModuleNode] = {}
    aliases: dict[str, str] = {}
    ties: dict[str, str] = {}
    modules: dict[int, str] = {}
    tensors: dict[int, str] = {}
    for path, module in root.named_modules(remove_duplicate=False):
        if id(module) in modules:
            aliases[path] = modules[id(module)]
            continue
        modules[id(module)] = path
        nodes[path] = _node(path, module, tensors, ties)
    return Architecture(nodes, connections_of(root), aliases, ties)


def _node(path: str, module: nn.Module, tensors: dict[int, str], ties: dict[str, str]) -> ModuleNode:
    specs: dict[str, TensorSpec] = {}
    for local, tensor, role in own_tensors(module):
        name = join_path(path, local)
        first = tensors.setdefault(id(tensor), name)
        if first == name:
            specs[local] = TensorSpec(tuple(tensor.shape), dtype_name(tensor.dtype), role)
        else:
            ties[name] = first
    kind = kind_of(module)
    return ModuleNode(
        kind=kind.name if kind else OPAQUE + original_class(module).__name__,
        config={**(kind.read(module) if kind else {}), **tracked_values(module)},
        tensors=specs,
        children=tuple(name for name, child in module._modules.items() if child is not None),
    )


def connections_of(root: nn.Module) -> tuple[Connection, ...]:
    """Return the added connections, in their order."""
    found = {stage.connection.id: stage.connection for stage in _stages(root)}
    return tuple(sorted(found.values(), key=lambda c: c.order))


def _stages(root: nn.Module) -> Iterator[Stage]:
    for module in root.modules():
        yield from stages_of(module)


def opaque_classes(architecture: Architecture) -> tuple[str, ...]:
    """Return the names of the classes that no registered kind describes."""
    names = {
        node.kind.removeprefix(OPAQUE) for node in architecture.nodes.values() if node.kind.startswith(OPAQUE)
    }
    return tuple(sorted(names))


def devices_of(root: nn.Module) -> tuple[torch.device, ...]:
    """Return the devices that hold parameters or buffers."""
    found = {tensor.device for tensor in (*root.parameters(), *root.buffers())}
    return tuple(sorted(found, key=str))
