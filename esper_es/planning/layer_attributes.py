"""Integers that torch's layers keep about their tensors, set to fit resized ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from esper_es.domain.canonical import Json
from esper_es.domain.edits import SetAttribute
from esper_es.domain.index_map import IndexMap
from esper_es.projections.live.names import own_tensors, tensor_at
from esper_es.tracing import Member

Attributes = dict[str, Json]
Sizes = Mapping[tuple[str, int], tuple[int, int]]
"""Old and new size by local tensor name and dimension."""

Repair = Callable[[Any, Sizes], Attributes]


def attribute_edits(root: nn.Module, resized: Sequence[tuple[Member, IndexMap]]) -> tuple[SetAttribute, ...]:
    """Return the attribute edits that go with resized dimensions, for layers of torch's own.

    All layers that hold a tied tensor are told. Other modules keep their attributes; the proof by a second trace
    shows whether that is right.
    """
    holders: dict[int, list[tuple[str, str]]] = {}
    for path, module in root.named_modules():
        for local, tensor, _ in own_tensors(module):
            holders.setdefault(id(tensor), []).append((path, local))
    by_module: dict[str, dict[tuple[str, int], tuple[int, int]]] = {}
    for member, gather in resized:
        for path, local in holders[id(tensor_at(root, member.tensor))]:
            sizes = by_module.setdefault(path, {})
            sizes[(local, member.dim)] = (len(member.positions), len(gather))
    edits: list[SetAttribute] = []
    for path, sizes in by_module.items():
        module = root.get_submodule(path)
        for classes, repair in _REPAIRS:
            if isinstance(module, classes):
                edits += [SetAttribute(path, name, value) for name, value in repair(module, sizes).items()]
                break
    return tuple(edits)


def _linear(module: Any, sizes: Sizes) -> Attributes:
    return _named(sizes, {("weight", 0): "out_features", ("weight", 1): "in_features"})


def _conv(module: Any, sizes: Sizes) -> Attributes:
    attributes = _named(sizes, {("weight", 0): "out_channels"})
    groups = int(module.groups)
    per_group = sizes.get(("weight", 1), (0, int(module.weight.shape[1])))[1]
    if groups > 1 and ("weight", 0) in sizes:
        old, new = sizes["weight", 0]
        groups = groups * new // old
        attributes["groups"] = groups
        attributes["in_channels"] = per_group * groups
    elif ("weight", 1) in sizes:
        attributes["in_channels"] = per_group * groups
    return attributes


def _batch_norm(module: Any, sizes: Sizes) -> Attributes:
    new = {size for _, size in sizes.values()}
    return {"num_features": max(new)}


def _layer_norm(module: Any, sizes: Sizes) -> Attributes:
    shape = [int(size) for size in module.normalized_shape]
    for (name, dim), (_, new) in sizes.items():
        if name in ("weight", "bias"):
            shape[dim] = new
    return {"normalized_shape": shape}


def _group_norm(module: Any, sizes: Sizes) -> Attributes:
    old, new = next(iter(sizes.values()))
    groups = int(module.num_groups)
    attributes: Attributes = {"num_channels": new}
    if groups > 1:
        attributes["num_groups"] = groups * new // old
    return attributes


def _embedding(module: Any, sizes: Sizes) -> Attributes:
    return _named(sizes, {("weight", 1): "embedding_dim"})


def _named(sizes: Sizes, names: Mapping[tuple[str, int], str]) -> Attributes:
    return {name: sizes[key][1] for key, name in names.items() if key in sizes}


_REPAIRS: tuple[tuple[tuple[type[nn.Module], ...], Repair], ...] = (
    ((nn.Linear,), _linear),
    ((nn.Conv1d, nn.Conv2d, nn.Conv3d), _conv),
    ((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
    ((nn.LayerNorm, nn.RMSNorm), _layer_norm),
    ((nn.GroupNorm,), _group_norm),
    ((nn.Embedding,), _embedding),
)
