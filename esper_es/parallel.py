"""What trains a model in several processes, and holds on to its parameters as they were when it was wrapped."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def in_the_way(module: nn.Module) -> str | None:
    """Say what would lose track of a model's parameters if these changed; None if nothing would.

    A ``DistributedDataParallel`` hooks gradient accumulators that a resized parameter no longer has: training would go
    on with gradients that are averaged no more. Sharded parameters are no whole tensors.
    """
    sharded = next((name for name, tensor in module.named_parameters() if _is_sharded(tensor)), None)
    if sharded is not None:
        return (
            f"parameter {sharded!r} is sharded over several processes; change the whole model, and shard it afterwards "
            "(fully_shard)"
        )
    if next(_wrappers(module), None) is None:
        return None
    gc.collect()  # a wrapper that was dropped lives on in cycles of its own
    wrapper = next(_wrappers(module), None)
    if wrapper is None:
        return None
    return (
        f"the model is wrapped in {type(wrapper).__name__}, which would no longer synchronize the gradients of what "
        "changes; drop the wrapper before, and make a new one afterwards, in every process"
    )


def _is_sharded(tensor: torch.Tensor) -> bool:
    distributed: Any = sys.modules.get("torch.distributed.tensor")
    return distributed is not None and isinstance(tensor, distributed.DTensor)


def _wrappers(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the wrappers that are alive around a model or a part of it, or inside it."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    sharding: Any = sys.modules.get("torch.distributed.fsdp")
    kinds = (
        (DistributedDataParallel,)
        if sharding is None
        else (DistributedDataParallel, sharding.FullyShardedDataParallel)
    )
    parts = set(map(id, module.modules()))
    for thing in gc.get_objects():
        if issubclass(type(thing), kinds) and (id(thing) in parts or id(thing.module) in parts):
            yield thing
