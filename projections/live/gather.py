"""Gathering tensors by index maps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import torch

from esper_es.domain.index_map import NEW, IndexMap

PIECES = 8
"""Pieces up to which each is copied by itself; more are gathered by their indices, all at once."""


def gathered(tensor: torch.Tensor, dim: int, gather: IndexMap, new: torch.Tensor | None) -> torch.Tensor:
    """Return a tensor whose entries along ``dim`` come from ``tensor``, or from ``new`` in order.

    Args:
        tensor: any shape, without a graph; ``dim`` has the old size.
        dim: the dimension.
        gather: old index of each new index, ``NEW`` for new entries.
        new: the new entries: like ``tensor`` with ``gather.added`` entries along ``dim``; None for zeros.

    Returns:
        A new tensor on the same device, of the same dtype and memory format, ``len(gather)`` along ``dim``.
    """
    pieces = _pieces(gather)
    if len(pieces) > PIECES:
        return _by_index(tensor, dim, gather, new)
    return _by_pieces(tensor, dim, pieces, new)


class _Piece(NamedTuple):
    """Neighbouring indices, or one index over and over."""

    start: int
    length: int
    times: int


@lru_cache
def _pieces(gather: IndexMap) -> tuple[_Piece, ...]:
    pieces: list[_Piece] = []
    for (start, length), alike in groupby(gather.runs):
        times = len(list(alike))
        repeated = length == 1 and start != NEW
        pieces += [_Piece(start, 1, times)] if repeated else [_Piece(start, length, 1)] * times
    return tuple(pieces)


def _by_pieces(
    tensor: torch.Tensor, dim: int, pieces: Sequence[_Piece], new: torch.Tensor | None
) -> torch.Tensor:
    parts, taken = [], 0
    for start, length, times in pieces:
        if start != NEW:
            part = tensor if length == tensor.shape[dim] else tensor.narrow(dim, start, length)
        elif new is None:
            part = tensor.new_zeros((*tensor.shape[:dim], length, *tensor.shape[dim + 1 :]))
        else:
            part = (new if length == new.shape[dim] else new.narrow(dim, taken, length)).to(tensor.device)
            taken += length
        parts.append(
            part if times == 1 else part.expand(*tensor.shape[:dim], times, *tensor.shape[dim + 1 :])
        )
    if _is_channels_last(tensor):
        parts = [part.contiguous(memory_format=torch.channels_last) for part in parts]
    return torch.cat(parts, dim)


def _by_index(tensor: torch.Tensor, dim: int, gather: IndexMap, new: torch.Tensor | None) -> torch.Tensor:
    index = torch.tensor(list(gather), device=tensor.device)
    result = _empty(tensor, dim, len(gather))
    result.copy_(tensor.index_select(dim, index.clamp(min=0)))
    added = (index == NEW).nonzero().flatten()
    if new is None:
        return result.index_fill_(dim, added, 0)
    return result.index_copy_(dim, added, new.to(result.device))


def _empty(tensor: torch.Tensor, dim: int, size: int) -> torch.Tensor:
    shape = (*tensor.shape[:dim], size, *tensor.shape[dim + 1 :])
    result = torch.empty(shape, dtype=tensor.dtype, device=tensor.device)
    return result.to(memory_format=torch.channels_last) if _is_channels_last(tensor) else result


def _is_channels_last(tensor: torch.Tensor) -> bool:
    return (
        tensor.ndim == 4
        and not tensor.is_contiguous()
        and tensor.is_contiguous(memory_format=torch.channels_last)
    )
