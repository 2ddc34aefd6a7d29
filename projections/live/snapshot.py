"""Everything that a run would need to go on from here: taken from live objects, and put back into them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import torch
from attrs import frozen
from torch import nn
from torch.optim import Optimizer

from esper_es.domain.architecture import TRANSIENT, split_path
from esper_es.domain.canonical import Json
from esper_es.domain.errors import IntegrityFailure, UsageError
from esper_es.projections.live.describe import describe
from esper_es.projections.live.journal import Journal
from esper_es.projections.live.live import Live
from esper_es.projections.live.modules import SeedSlot
from esper_es.projections.live.names import dtype_name, named_parameters_by_id, named_tensors
from esper_es.projections.live.optimizer_state import begin_anew
from esper_es.projections.live.plain import from_json, to_json
from esper_es.projections.live.rng import capture_rng, missing_generators, restore_rng

FORMAT = 1
PARTS = ("optimizer", "scheduler", "scaler")
"""What a run may hold beside its module."""


@frozen
class Snapshot:
    """Names of tensors with the live tensors themselves, and all the rest as JSON.

    Attributes:
        tensors: by name: ``module/<state-dict name>``, ``optimizer/...``, ``scheduler/...``, ``scaler/...``,
            ``rng/...``. They share storage with the live objects until stored.
        document: JSON: module tensors' properties, optimizer groups by parameter name, plain values.
    """

    tensors: Mapping[str, torch.Tensor]
    document: Mapping[str, Json]


def take(live: Live) -> Snapshot:
    """Return a snapshot. Nothing is changed.

    Raises:
        UsageError: if an optimizer, scheduler or scaler holds something that can't be stored without pickle.
    """
    tensors: dict[str, torch.Tensor] = {}

    def store(name: str, tensor: torch.Tensor) -> None:
        tensors[name] = tensor.detach()

    module: dict[str, Json] = {}
    for name, tensor, role in named_tensors(live.module):
        store(f"module/{name}", tensor)
        module[name] = tensor_properties(tensor, role)
    document: dict[str, Json] = {
        "format": FORMAT,
        "architecture": describe(live.module).fingerprint,
        "module": module,
        "training": sorted(path for path, m in live.module.named_modules() if m.training),
        "optimizer": None if live.optimizer is None else _optimizer(live, live.optimizer, store),
        "scheduler": _state_of(live.scheduler, "scheduler", store),
        "scaler": _state_of(live.scaler, "scaler", store),
        "rng": to_json(capture_rng(), "rng", store),
    }
    return Snapshot(tensors, document)


def tensor_properties(tensor: torch.Tensor, role: str) -> dict[str, Json]:
    """Return what a fingerprint says of a module's tensor besides its bytes."""
    channels_last = (
        tensor.ndim == 4
        and not tensor.is_contiguous()
        and tensor.is_contiguous(memory_format=torch.channels_last)
    )
    return {
        "role": role,
        "shape": list(tensor.shape),
        "dtype": dtype_name(tensor.dtype),
        "channels_last": channels_last,
        "requires_grad": tensor.requires_grad,
    }


def _optimizer(live: Live, optimizer: Optimizer, store: Callable[[str, torch.Tensor], None]) -> Json:
    names = named_parameters_by_id(live.module)
    groups = []
    for index, group in enumerate(optimizer.param_groups):
        if strangers := [p for p in group["params"] if id(p) not in names]:
            raise UsageError(
                f"optimizer group {index} holds {len(strangers)} parameters that are not in the model; "
                "attach a model and an optimizer over its own parameters"
            )
        options = {key: value for key, value in group.items() if key != "params"}
        groups.append(
            {
                "params": [names[id(p)] for p in group["params"]],
                "options": to_json(options, f"optimizer/group{index}", store),
            }
        )
    state = {
        names[id(parameter)]: to_json(dict(entries), f"optimizer/{names[id(parameter)]}", store)
        for parameter, entries in optimizer.state.items()
        if id(parameter) in names
    }
    return {"class": type(optimizer).__name__, "groups": groups, "state": state}


def _state_of(holder: Any, what: str, store: Callable[[str, torch.Tensor], None]) -> Json:
    if holder is None:
        return None
    return {"class": type(holder).__name__, "state": to_json(holder.state_dict(), what, store)}


def put_back(
    live: Live,
    document: Mapping[str, Json],
    tensor: Callable[[str], torch.Tensor],
    journal: Journal,
    fresh: Collection[str] = (),
) -> tuple[str, ...]:
    """Restore live objects, whose structure already fits, to a snapshot.

    Args:
        live: the objects; all they held is replaced, gradients are dropped.
        document: of the snapshot.
        tensor: gives a fresh CPU tensor by its name in the snapshot.
        journal: takes how to undo it all.
        fresh: parts that begin anew instead: ``"optimizer"``, ``"scheduler"``, ``"scaler"``. A scheduler or scaler
            stays as it is; an optimizer loses its state, and takes up what the model lets it train.

    Returns:
        Random generators that could not be put back, with the reason.

    Raises:
        IntegrityFailure: if the document is of another format, or names other tensors than the module has.
        UsageError: if the run has other parts (optimizer, scheduler, scaler) than the snapshot.
    """
    if document.get("format") != FORMAT:
        raise IntegrityFailure(f"a manifest has format {document.get('format')!r}, {FORMAT} was expected")
    put_back_module(live, document, tensor, journal)
    if "optimizer" in fresh:
        begin_anew(live, journal)
    else:
        _put_back_optimizer(live, document["optimizer"], tensor, journal)
    for what, holder in (("scheduler", live.scheduler), ("scaler", live.scaler)):
        if what not in fresh:
            _put_back_state(holder, document[what], what, tensor, journal)
    before, saved = capture_rng(), from_json(document["rng"], tensor)
    journal.record(lambda: restore_rng(before))
    restore_rng(saved)
    return missing_generators(saved)


def of_other_kinds(live: Live, document: Mapping[str, Json]) -> frozenset[str]:
    """Return the parts that are of another class than the captured ones, or there where those were not."""
    held = {"optimizer": live.optimizer, "scheduler": live.scheduler, "scaler": live.scaler}
    kinds = {what: None if part is None else type(part).__name__ for what, part in held.items()}
    saved = {what: None if document[what] is None else document[what]["class"] for what in PARTS}
    return frozenset(what for what in PARTS if kinds[what] != saved[what])


def put_back_module(
    live: Live, document: Mapping[str, Json], tensor: Callable[[str], torch.Tensor], journal: Journal
) -> None:
    """Restore the module alone: parameters, buffers, ``requires_grad`` and training flags."""
    properties = document["module"]
    _make_room(live.module, properties, journal)
    present = {name: value for name, value, _ in named_tensors(live.module)}
    if set(present) != set(properties):
        odd = sorted(set(present) ^ set(properties))[:5]
        raise IntegrityFailure(f"the capture and the module differ in the tensors {odd}")
    for name, target in present.items():
        loaded = tensor(f"module/{name}").to(target.device)
        if properties[name]["channels_last"]:
            loaded = loaded.contiguous(memory_format=torch.channels_last)
        journal.set_storage(target, loaded)
        if loaded.is_floating_point() or loaded.is_complex():
            journal.set_requires_grad(target, properties[name]["requires_grad"])
    training = set(document["training"])
    for path, module in live.module.named_modules():
        journal.set_attribute(module, "training", path in training)
        if isinstance(module, SeedSlot):
            journal.set_attribute(module, "_mixes", module._mixes)
            module.update_route()


def _make_room(root: nn.Module, properties: Mapping[str, Any], journal: Journal) -> None:
    """Give modules the buffers outside the state dict that a forward pass had made before the capture."""
    owners = dict(root.named_modules())
    device = next((tensor.device for tensor in (*root.parameters(), *root.buffers())), None)
    for name, each in properties.items():
        path, local = split_path(name)
        owner = owners.get(path)
        if each["role"] != TRANSIENT or owner is None or owner._buffers.get(local) is not None:
            continue
        journal.set_item(owner._buffers, local, torch.empty(0, device=device))
        if local not in owner._non_persistent_buffers_set:
            journal.record(partial(owner._non_persistent_buffers_set.discard, local))
            owner._non_persistent_buffers_set.add(local)


def _put_back_optimizer(
    live: Live, saved: Json, tensor: Callable[[str], torch.Tensor], journal: Journal
) -> None:
    optimizer = live.optimizer
    _require_same_part(optimizer, saved, "optimizer")
    if optimizer is None:
        return
    parameters = dict(live.module.named_parameters())
    present, wanted = optimizer.param_groups, len(saved["groups"])
    if len(present) != wanted:
        added: list[dict[str, Any]] = [{"params": []} for _ in range(wanted - len(present))]
        journal.replace_list(present, [*present[:wanted], *added])
    for group, kept in zip(optimizer.param_groups, saved["groups"], strict=True):
        journal.replace_list(group["params"], [parameters[name] for name in kept["params"]])
        options = from_json(kept["options"], tensor)
        for key, value in options.items():
            if isinstance(value, torch.Tensor) and isinstance(group.get(key), torch.Tensor):
                options[key] = value.to(group[key].device)
        journal.replace_items(group, {"params": group["params"], **options})
    beside = {
        id(p): bool(group.get("fused") or group.get("capturable"))
        for group in optimizer.param_groups
        for p in group["params"]
    }
    state = {}
    for name, entries in saved["state"].items():
        parameter = parameters[name]
        restored = from_json(entries, tensor)
        state[parameter] = _on_device(restored, parameter.device, beside.get(id(parameter), False))
    journal.replace_items(optimizer.state, state)


def _on_device(entries: dict[str, Any], device: torch.device, steps_too: bool) -> dict[str, Any]:
    """Move state beside its parameter; step counts stay on the CPU unless the optimizer is fused."""
    return {
        key: value.to(device) if isinstance(value, torch.Tensor) and (steps_too or key != "step") else value
        for key, value in entries.items()
    }


def _put_back_state(
    holder: Any, saved: Json, what: str, tensor: Callable[[str], torch.Tensor], journal: Journal
) -> None:
    _require_same_part(holder, saved, what)
    if holder is None:
        return
    before = copy.deepcopy(holder.state_dict())
    journal.record(lambda: holder.load_state_dict(before))
    holder.load_state_dict(from_json(saved["state"], tensor))


def _require_same_part(part: Any, saved: Json, what: str) -> None:
    if (part is None) != (saved is None):
        has, had = ("no", "one") if part is None else ("one", "none")
        raise UsageError(
            f"this run has {has} {what}, the captured one had {had}; attach with the same parts, or "
            f"with fresh=({what!r},) to go on without it"
        )
    if part is not None and type(part).__name__ != saved["class"]:
        raise UsageError(
            f"this run's {what} is a {type(part).__name__}, the captured one was a {saved['class']}; "
            f"attach with the same parts, or with fresh=({what!r},) to begin it anew"
        )
