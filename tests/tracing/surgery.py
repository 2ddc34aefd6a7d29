"""Naive surgery on copies: gather every tensor, then set the attributes of torch's layers by their tensors."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from esper_es.tracing import Member, Refusal, WidthGroup, group_growth

Maps = Mapping[tuple[str, int], "np.ndarray[Any, np.dtype[np.int64]]"]


def growth_maps(group: WidthGroup, count: int = 1) -> dict[tuple[str, int], Any]:
    grown = group_growth(group, count)
    assert not isinstance(grown, Refusal), grown.reason
    return {(member.tensor, member.dim): growth.gather for member, growth in grown}


def resized(model: nn.Module, group: WidthGroup, maps: Maps) -> nn.Module:
    """A copy with every dimension gathered; new entries are random, but zero in columns that read them."""
    new = copy.deepcopy(model)
    tensors = dict(new.named_parameters()) | dict(new.named_buffers())
    for (name, dim), gather in maps.items():
        member = group.member(name, dim)
        assert member is not None
        old = tensors[name].detach()
        _replace(new, tensors[name], _gathered(old, dim, gather, member))
        tensors = dict(new.named_parameters()) | dict(new.named_buffers())
    for before, after in zip(model.modules(), new.modules(), strict=True):
        _set_attributes(before, after)
    return new


def _gathered(old: torch.Tensor, dim: int, gather: Any, member: Member) -> torch.Tensor:
    index = torch.from_numpy(np.asarray(gather))
    result = old.index_select(dim, index.clamp(min=0)).clone()
    fresh = torch.zeros_like(result) if member.role == "consumer" else torch.rand_like(result) + 0.5
    shape = [1] * result.ndim
    shape[dim] = -1
    return torch.where((index < 0).view(shape), fresh, result)


def _replace(model: nn.Module, old: torch.Tensor, new: torch.Tensor) -> None:
    parameter = nn.Parameter(new) if isinstance(old, nn.Parameter) else new
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for leaf, value in list(store.items()):
                if value is old:
                    store[leaf] = parameter


def _set_attributes(before: nn.Module, after: nn.Module) -> None:
    match after:
        case nn.Linear():
            after.out_features, after.in_features = after.weight.shape
        case nn.Embedding():
            after.num_embeddings, after.embedding_dim = after.weight.shape
        case nn.modules.conv._ConvNd():
            assert isinstance(before, nn.modules.conv._ConvNd)
            if before.groups > 1:
                after.groups = before.groups * after.weight.shape[0] // before.weight.shape[0]
        case nn.modules.batchnorm._BatchNorm():
            after.num_features = after.running_mean.shape[0]  # type: ignore[union-attr]
        case nn.GroupNorm():
            assert isinstance(before, nn.GroupNorm)
            scale = after.weight.shape[0] if before.num_groups > 1 else before.num_channels
            after.num_groups = before.num_groups * scale // before.num_channels
            after.num_channels = after.weight.shape[0]
        case nn.LayerNorm():
            after.normalized_shape = tuple(after.weight.shape)
        case nn.LSTM() | nn.GRU():
            after.hidden_size = after.weight_hh_l0.shape[1]


def output(model: nn.Module, example: Any) -> Any:
    args, kwargs = example
    with torch.no_grad():
        return model.eval()(*args, **kwargs)
