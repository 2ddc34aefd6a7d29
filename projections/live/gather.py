"""Gathering tensors by index maps."""

from __future__ import annotations

import torch

from esper_es.domain.index_map import NEW, IndexMap


def gathered(tensor: torch.Tensor, dim: int, gather: IndexMap, new: torch.Tensor | None) -> torch.Tensor:
    """Return a tensor whose entries along ``dim`` come from ``tensor``, or from ``new`` in order.

    Args:
        tensor: any shape; ``dim`` has the old size.
        dim: the dimension.
        gather: old index of each new index, ``NEW`` for new entries.
        new: the new entries: like ``tensor`` with ``gather.added`` entries along ``dim``; None for zeros.

    Returns:
        A new tensor on the same device, of the same dtype and memory format, ``len(gather)`` along ``dim``.
    """
    shape = (*tensor.shape[:dim], len(gather), *tensor.shape[dim + 1 :])
    result = torch.empty(shape, dtype=tensor.dtype, device=tensor.device)
    if (
        tensor.ndim == 4
        and not tensor.is_contiguous()
        and tensor.is_contiguous(memory_format=torch.channels_last)
    ):
        result = result.to(memory_format=torch.channels_last)
    position = taken = 0
    with torch.no_grad():
        for start, length in gather.runs:
            target = result.narrow(dim, position, length)
            if start != NEW:
                target.copy_(tensor.narrow(dim, start, length))
            elif new is None:
                target.zero_()
            else:
                target.copy_(new.narrow(dim, taken, length))
                taken += length
            position += length
    return result
