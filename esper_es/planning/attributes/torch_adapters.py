"""Adapters of torch's own layers: integers that they keep about their tensors."""

from __future__ import annotations

from typing import Any

from torch import nn

from esper_es.domain.canonical import Json
from esper_es.domain.errors import Refused
from esper_es.planning.attributes.width_adapters import Changes, SizeChange, WidthRepair, sized, width_adapter
from esper_es.projections.live.free_heads import INNER, may_free_heads
from esper_es.projections.live.hosting import original_class


@width_adapter(nn.Linear)
def linear(module: Any, changes: Changes) -> WidthRepair:
    return sized(changes, {("weight", 0): "out_features", ("weight", 1): "in_features"})


@width_adapter(nn.Bilinear)
def bilinear(module: Any, changes: Changes) -> WidthRepair:
    names = {("weight", 0): "out_features", ("weight", 1): "in1_features", ("weight", 2): "in2_features"}
    return sized(changes, names)


@width_adapter(nn.Conv1d, nn.Conv2d, nn.Conv3d)
def convolution(module: Any, changes: Changes) -> WidthRepair:
    return _convolution(module, changes, own=0, per_group=1, names=("out_channels", "in_channels"))


@width_adapter(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
def transposed_convolution(module: Any, changes: Changes) -> WidthRepair:
    return _convolution(module, changes, own=0, per_group=1, names=("in_channels", "out_channels"))


def _convolution(
    module: Any, changes: Changes, own: int, per_group: int, names: tuple[str, str]
) -> WidthRepair:
    """One dimension counts all channels on its side, the other those of one group on the other side."""
    attributes: dict[str, Json] = {}
    groups = int(module.groups)
    whole, part = changes.get(("weight", own)), changes.get(("weight", per_group))
    if whole is not None:
        attributes[names[0]] = whole.new
        if groups > 1:
            groups = groups * whole.new // whole.old
            attributes["groups"] = groups
            attributes[names[1]] = int(module.weight.shape[per_group]) * groups
    if part is not None:
        attributes[names[1]] = part.new * groups
    return WidthRepair(attributes)


@width_adapter(nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
def feature_norm(module: Any, changes: Changes) -> WidthRepair:
    return WidthRepair({"num_features": max(change.new for change in changes.values())})


@width_adapter(nn.LayerNorm, nn.RMSNorm)
def layer_norm(module: Any, changes: Changes) -> WidthRepair:
    shape = [int(size) for size in module.normalized_shape]
    for (name, dim), change in changes.items():
        if name in ("weight", "bias"):
            shape[dim] = change.new
    return WidthRepair({"normalized_shape": shape})


@width_adapter(nn.GroupNorm)
def group_norm(module: Any, changes: Changes) -> WidthRepair:
    """The channels of one group alone are units by themselves, unless they were asked for as one."""
    change = next(iter(changes.values()))
    attributes: dict[str, Json] = {"num_channels": change.new}
    if module.num_groups == 1 and change.old_units == 1 < change.old:
        attributes["num_groups"] = change.new_units
    elif module.num_groups > 1:
        attributes["num_groups"] = int(module.num_groups) * change.new // change.old
    return WidthRepair(attributes)


@width_adapter(nn.Embedding, nn.EmbeddingBag)
def embedding(module: Any, changes: Changes) -> WidthRepair:
    return sized(changes, {("weight", 1): "embedding_dim"})


@width_adapter(nn.PReLU)
def parametric_relu(module: Any, changes: Changes) -> WidthRepair:
    return sized(changes, {("weight", 0): "num_parameters"})


@width_adapter(nn.RNNBase)
def recurrent(module: Any, changes: Changes) -> WidthRepair:
    """Hidden units stand in every gate: ``weight_hh`` is ``(gates * hidden, hidden or projected)``."""
    attributes: dict[str, Json] = {}
    gates = int(module.weight_ih_l0.shape[0]) // int(module.hidden_size)
    if ("weight_ih_l0", 0) in changes:
        attributes["hidden_size"] = changes["weight_ih_l0", 0].new // gates
    if ("weight_ih_l0", 1) in changes:
        attributes["input_size"] = changes["weight_ih_l0", 1].new
    if ("weight_hr_l0", 0) in changes:
        attributes["proj_size"] = changes["weight_hr_l0", 0].new
    return WidthRepair(attributes)


@width_adapter(nn.RNNCellBase)
def recurrent_cell(module: Any, changes: Changes) -> WidthRepair:
    """What a cell returns is fed back to it in the next step.

    Raises:
        Refused: if the example inputs take one step only, so that nobody saw which unit is fed back where.
    """
    if (("weight_ih", 0) in changes) != (("weight_hh", 1) in changes):
        raise Refused(
            f"the example inputs never feed the state of {type(module).__name__} back to it; give example inputs that "
            "take two steps or more",
            "not_executed",
        )
    return sized(changes, {("weight_ih", 1): "input_size", ("weight_hh", 1): "hidden_size"})


@width_adapter(nn.MultiheadAttention)
def attention(module: Any, changes: Changes) -> WidthRepair:
    """Heads have ``head_dim`` channels each. Where they are not as wide as the stream, all together, it keeps their
    width as ``inner_dim`` and another ``forward`` runs; see ``projections/live/free_heads.py``. A subclass with a
    ``forward`` of its own is taken to do as torch's does: heads change with the stream.

    Raises:
        Refused: if a head would change that is the only one, or the number of learnt positions would.
    """
    stream = _size(module.out_proj.weight, 0, changes.get(("out_proj.weight", 0)))
    inner = _size(module.out_proj.weight, 1, changes.get(("out_proj.weight", 1)))
    if ("bias_k", 0) in changes or ("bias_v", 0) in changes:
        raise Refused("nn.MultiheadAttention has one learnt position, and masks make room for one", "bias_kv")
    heads = changes.get(("out_proj.weight", 1))
    size = int(module.head_dim) if heads is None or not heads.old_head else heads.new_head
    if int(module.num_heads) == 1 and heads is not None and heads.old_units > 1:
        raise Refused(
            f"this nn.MultiheadAttention has one head, which stays {module.head_dim} channels wide; ask for "
            "unit='heads' to have more of them",
            "attention_heads",
        )
    packed = module.in_proj_weight is not None
    query = "in_proj_weight" if packed else "q_proj_weight"
    fed = _size(getattr(module, query), 1, changes.get((query, 1)))
    keys = sized(changes, {("k_proj_weight", 1): "kdim", ("v_proj_weight", 1): "vdim"})
    attributes = {**keys.attributes, "embed_dim": fed, "num_heads": inner // size, "head_dim": size}
    if packed:
        attributes |= {"kdim": fed, "vdim": fed}
    if may_free_heads(original_class(module)):
        return WidthRepair({**attributes, INNER: None if fed == inner == stream else inner})
    sizes = {(query, 1): fed, ("out_proj.weight", 0): fed, ("out_proj.weight", 1): fed}
    return WidthRepair({**attributes, "num_heads": fed // size}, sizes)


def _size(tensor: Any, dim: int, change: SizeChange | None) -> int:
    return int(tensor.shape[dim]) if change is None else change.new
