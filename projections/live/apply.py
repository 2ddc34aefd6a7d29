"""Edits, done to the live module and its optimizer: one function per edit, found by type."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from attrs import frozen
from torch import nn

from esper_es.domain.architecture import Connection, split_path
from esper_es.domain.edits import (
    AddModule,
    Connect,
    Disconnect,
    Edit,
    RemoveModule,
    ReplaceModule,
    ResizeTensor,
    ScaleSlice,
    ScaleTensor,
    SetAttribute,
    SetScalar,
)
from esper_es.projections.live import optimizer_state
from esper_es.projections.live.attributes import set_attribute
from esper_es.projections.live.compiled_programs import let_programs_look_again
from esper_es.projections.live.free_heads import INNER
from esper_es.projections.live.fused_paths import step_aside
from esper_es.projections.live.gather import gathered
from esper_es.projections.live.hosting import STANDING, stages_of
from esper_es.projections.live.initializers import CONSTANTS
from esper_es.projections.live.journal import Journal
from esper_es.projections.live.kept_tensors import forget_kept
from esper_es.projections.live.live import Live
from esper_es.projections.live.material import Material
from esper_es.projections.live.modules import SeedSlot
from esper_es.projections.live.names import module_at, parent_of, tensor_at
from esper_es.projections.live.wiring import rehost, relink, suit_heads, without


@frozen(eq=False)
class Site:
    """Where edits are applied, from what, and how they are undone."""

    live: Live
    material: Material
    journal: Journal


def apply_edits(live: Live, edits: Iterable[Edit], material: Material, journal: Journal) -> None:
    """Apply edits in place, in order, to the module and then to its followers.

    New tensors and new entries begin with the same bytes in a follower; entries that stay keep what it has averaged.
    If an edit fails, the caller undoes the journal.

    Raises:
        KeyError: when an edit names something that is not there.
    """
    steps = tuple(edits)
    with _without_graph():
        _apply(Site(live, material, journal), steps)
        forget_kept(_around(live.module, steps))
        let_programs_look_again(live.module)
        for follower in live.followers:
            with follower.staying_frozen(journal):
                _apply(Site(Live(follower.module), material, journal), steps)
            forget_kept(_around(follower.module, steps))
            let_programs_look_again(follower.module)


@contextmanager
def _without_graph() -> Iterator[None]:
    """Change tensors without a graph; outside of inference mode, whose tensors could not be trained."""
    if not torch.is_inference_mode_enabled():
        with torch.no_grad():
            yield
    else:
        with torch.inference_mode(mode=False), torch.no_grad():
            yield


def _around(root: nn.Module, edits: Iterable[Edit]) -> list[nn.Module]:
    """The modules that hold a tensor which edits change, the innermost and all around it, but for those removed."""
    names = (getattr(edit, "tensor", "") for edit in edits)
    paths: dict[str, None] = {}
    for name in names:
        while name:
            name = split_path(name)[0]
            paths[name] = None
    found = []
    for path in paths:
        with suppress(KeyError):
            found.append(module_at(root, path))
    return found


def _apply(site: Site, edits: Iterable[Edit]) -> None:
    for edit in edits:
        _STEPS[type(edit)](site, edit)


def _add(site: Site, edit: AddModule) -> None:
    parent, name = parent_of(site.live.module, edit.path)
    like = module_at(site.live.module, edit.like)
    module = _like(site.material.module(edit.fragment, edit.initial), like, parent, site.live.module)
    site.journal.insert_child(parent, name, module, edit.after)
    _join_optimizer(site, module, like)


def _like(module: nn.Module, *neighbours: nn.Module) -> nn.Module:
    """Move a new module to its neighbours' device, and give it their training flag."""
    module.train(neighbours[0].training)
    for neighbour in neighbours:
        for tensor in (*neighbour.parameters(), *neighbour.buffers()):
            return module.to(tensor.device)
    return module


def _join_optimizer(site: Site, module: nn.Module, like: nn.Module) -> None:
    """Put a new module's parameters into the groups of its model: biases with biases, weights with weights."""
    optimizer = site.live.optimizer
    if optimizer is None:
        return
    members = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for parameter in module.parameters():
        if id(parameter) in members:
            continue
        group = optimizer_state.group_for(optimizer, parameter, like.parameters())
        optimizer_state.join_group(site.journal, optimizer, [parameter], group)


def _remove(site: Site, edit: RemoveModule) -> None:
    parent, name = parent_of(site.live.module, edit.path)
    module = module_at(site.live.module, edit.path)
    site.journal.remove_child(parent, name)
    _leave_optimizer(site, module.parameters())


def _leave_optimizer(site: Site, parameters: Iterable[torch.Tensor]) -> None:
    """Take parameters out of the optimizer, unless the model still uses them elsewhere."""
    if site.live.optimizer is None:
        return
    staying = {id(p) for p in site.live.module.parameters()}
    gone = [p for p in parameters if id(p) not in staying]
    optimizer_state.leave_groups(site.journal, site.live.optimizer, gone)


def _replace(site: Site, edit: ReplaceModule) -> None:
    parent, name = parent_of(site.live.module, edit.path)
    old = module_at(site.live.module, edit.path)
    new = _like(site.material.module(edit.fragment, edit.initial), old, parent, site.live.module)
    if edit.keep is not None:
        holder, local = parent_of(new, edit.keep_as)
        holder._modules[local] = module_at(old, edit.keep)
    connections = [stage.connection for stage in stages_of(old)]
    site.journal.replace_child(parent, name, new)
    step_aside(site.journal, site.live.module, edit.path, STANDING)
    _join_optimizer(site, new, old)
    _leave_optimizer(site, old.parameters())
    for connection in connections:
        rehost(site.journal, site.live.module, edit.path, connection)
    relink(site.journal, site.live.module, edit.path)


def _resize(site: Site, edit: ResizeTensor) -> None:
    tensor = tensor_at(site.live.module, edit.tensor)
    old_shape, gradient = tensor.shape, tensor.grad
    new = None
    if edit.fill is not None and CONSTANTS.get(edit.fill.initializer) != 0.0:
        shape = (*old_shape[: edit.dim], edit.gather.added, *old_shape[edit.dim + 1 :])
        new = site.material.slice(edit.fill, tuple(shape), tensor.dtype)
    resized = gathered(tensor, edit.dim, edit.gather, new)
    site.journal.set_storage(tensor, resized)
    if gradient is not None:
        site.journal.set_gradient(tensor, gathered(gradient, edit.dim, edit.gather, None))
    if site.live.optimizer is not None and isinstance(tensor, nn.Parameter):
        optimizer_state.resize_state(
            site.journal, site.live.optimizer, tensor, old_shape, edit.dim, edit.gather
        )


def _scale(site: Site, edit: ScaleTensor) -> None:
    tensor = tensor_at(site.live.module, edit.tensor)
    gradient = tensor.grad
    site.journal.set_storage(tensor, tensor.detach() * edit.factor)
    site.journal.set_gradient(tensor, gradient)


def _scale_slice(site: Site, edit: ScaleSlice) -> None:
    tensor = tensor_at(site.live.module, edit.tensor)
    gradient = tensor.grad
    scaled = tensor.detach().clone()
    for start, length in edit.indices.runs:
        scaled.narrow(edit.dim, start, length).mul_(edit.factor)
    site.journal.set_storage(tensor, scaled)
    site.journal.set_gradient(tensor, gradient)


def _set_attribute(site: Site, edit: SetAttribute) -> None:
    module = module_at(site.live.module, edit.path)
    set_attribute(site.journal, module, edit.name, edit.value)
    _reroute(site, module)
    if edit.name == INNER:
        suit_heads(site.journal, site.live.module, edit.path)


def _set_scalar(site: Site, edit: SetScalar) -> None:
    module, _ = parent_of(site.live.module, edit.tensor)
    tensor = tensor_at(site.live.module, edit.tensor)
    site.journal.set_storage(tensor, torch.full_like(tensor, edit.value))
    _reroute(site, module)


def _reroute(site: Site, module: nn.Module) -> None:
    if isinstance(module, SeedSlot):
        mixes = module._mixes
        site.journal.record(lambda: setattr(module, "_mixes", mixes))
        module.update_route()


def _connect(site: Site, edit: Connect) -> None:
    connection: Connection = edit.connection
    for path in dict.fromkeys((connection.source, connection.target)):
        rehost(site.journal, site.live.module, path, connection)


def _disconnect(site: Site, edit: Disconnect) -> None:
    without(site.journal, site.live.module, edit.id)


_STEPS: dict[type, Callable[[Site, Any], None]] = {
    AddModule: _add,
    RemoveModule: _remove,
    ReplaceModule: _replace,
    ResizeTensor: _resize,
    ScaleTensor: _scale,
    ScaleSlice: _scale_slice,
    SetAttribute: _set_attribute,
    SetScalar: _set_scalar,
    Connect: _connect,
    Disconnect: _disconnect,
}
