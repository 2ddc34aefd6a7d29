"""Gathering tensors by index maps."""

from __future__ import annotations

from itertools import groupby
from typing import NamedTuple

import torch

from esper_es.domain.index_map import NEW, IndexMap

PIECES = 8
"""Pieces up to which each is copied by itself; more are gathered by their indices, all at once."""


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
    pieces = _pieces(gather)
    with torch.no_grad():
        if len(pieces) > PIECES:
            return _by_index(tensor, dim, gather, new)
        return _by_pieces(tensor, dim, pieces, new)


class _Piece(NamedTuple):
    """Neighbouring indices, or one index over and over."""

    start: int
    length: int
    times: int


def _pieces(gather: IndexMap) -> list[_Piece]:
    pieces: list[_Piece] = []
    for (start, length), alike in groupby(gather.runs):
        times = len(list(alike))
        repeated = length == 1 and start != NEW
        pieces += [_Piece(start, 1, times)] if repeated else [_Piece(start, length, 1)] * times
    return pieces


def _by_pieces(
    tensor: torch.Tensor, dim: int, pieces: list[_Piece], new: torch.Tensor | None
) -> torch.Tensor:
    result = _empty(tensor, dim, sum(piece.length * piece.times for piece in pieces))
    position = taken = 0
    for start, length, times in pieces:
        target = result.narrow(dim, position, length * times)
        if start != NEW:
            target.copy_(tensor.narrow(dim, start, length))
        elif new is None:
            target.zero_()
        else:
            target.copy_(new.narrow(dim, taken, length))
            taken += length
        position += length * times
    return result


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
    if (
        tensor.ndim == 4
        and not tensor.is_contiguous()
        and tensor.is_contiguous(memory_format=torch.channels_last)
    ):
        return result.to(memory_format=torch.channels_last)
    return result
