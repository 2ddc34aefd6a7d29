"""How sines and cosines of rotary positions lie in a tensor: as complex numbers, stacked, side by side, or one of them.

Sines and cosines have one row for each position, and one column for each frequency, or two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from attrs import frozen

from esper_es.tracing.union_find import Ids

Back = Callable[[torch.Tensor], torch.Tensor]


@frozen(eq=False)
class Layout:
    """A way to read a tensor, which its numbers may or may not bear out.

    Attributes:
        sines: in double precision, on the CPU.
        cosines: likewise.
        dim: of the tensor, along which the columns lie.
        spread: from a number for each column to one for each index of that dimension.
        laid: from columns of sines and of cosines to entries of the tensor along that dimension.
    """

    sines: torch.Tensor
    cosines: torch.Tensor
    dim: int
    spread: Callable[[Ids], Ids]
    laid: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def layouts(tensor: torch.Tensor, columns: tuple[int, ...]) -> Iterator[Layout]:
    """Yield the ways in which a tensor may hold sines and cosines with one of these numbers of columns."""
    if tensor.is_complex():
        yield from _complex(tensor, columns)
    elif tensor.is_floating_point():
        yield from _stacked(tensor, columns)
        yield from _side_by_side(tensor, columns)


def beside(tensor: torch.Tensor, other: torch.Tensor, columns: tuple[int, ...]) -> Iterator[Layout]:
    """Yield the ways in which a tensor may hold one of both, and another tensor of its shape the other one."""
    axes = _axes(tensor.shape)
    if axes is None or tensor.shape[axes[1]] not in columns:
        return
    if tensor.is_floating_point() and other.is_floating_point() and tensor.shape == other.shape:
        own, partner = _rows(tensor), _rows(other)
        back = _back(tensor.shape, axes[1])
        yield Layout(own, partner, axes[1], _each, lambda sines, _: back(sines))
        yield Layout(partner, own, axes[1], _each, lambda _, cosines: back(cosines))


def _complex(tensor: torch.Tensor, columns: tuple[int, ...]) -> Iterator[Layout]:
    axes = _axes(tensor.shape)
    if axes is not None and tensor.shape[axes[1]] in columns:
        back = _back(tensor.shape, axes[1])
        yield Layout(
            _rows(tensor.imag),
            _rows(tensor.real),
            axes[1],
            _each,
            lambda sines, cosines: back(torch.complex(cosines, sines)),
        )


def _stacked(tensor: torch.Tensor, columns: tuple[int, ...]) -> Iterator[Layout]:
    for at in (dim for dim, size in enumerate(tensor.shape) if size == 2):
        first, second = tensor.unbind(at)
        axes = _axes(first.shape)
        if axes is not None and first.shape[axes[1]] in columns:
            joined = partial(_restacked, at, _back(first.shape, axes[1]))
            yield from _both(first, second, axes[1] + (axes[1] >= at), _each, joined)


def _restacked(at: int, back: Back, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return torch.stack((back(one), back(other)), at)


def _side_by_side(tensor: torch.Tensor, columns: tuple[int, ...]) -> Iterator[Layout]:
    axes = _axes(tensor.shape)
    if axes is None or tensor.shape[axes[1]] % 2 or tensor.shape[axes[1]] // 2 not in columns:
        return
    dim, back = axes[1], _back(tensor.shape, axes[1])
    across = tensor.movedim(dim, -1)
    first, second = across.chunk(2, -1)
    yield from _both(
        first,
        second,
        dim,
        lambda order: np.tile(order, 2),
        lambda one, other: back(torch.cat((one, other), 1)),
    )
    yield from _both(
        across[..., ::2],
        across[..., 1::2],
        dim,
        lambda order: np.repeat(order, 2),
        lambda one, other: back(torch.stack((one, other), 2).flatten(1)),
    )


def _both(
    first: torch.Tensor,
    second: torch.Tensor,
    dim: int,
    spread: Callable[[Ids], Ids],
    joined: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> Iterator[Layout]:
    """Sines first, or cosines."""
    one, other = _rows(first), _rows(second)
    yield Layout(one, other, dim, spread, joined)
    yield Layout(other, one, dim, spread, lambda sines, cosines: joined(cosines, sines))


def _each(order: Ids) -> Ids:
    return order


def _axes(shape: torch.Size) -> tuple[int, int] | None:
    """The dimensions of positions and of columns; None where there are others."""
    long = [dim for dim, size in enumerate(shape) if size > 1]
    if len(long) == 1 and long[0] == len(shape) - 2:
        long.append(len(shape) - 1)
    return (long[0], long[1]) if len(long) == 2 else None


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    axes = _axes(tensor.shape)
    assert axes is not None
    return tensor.detach().cpu().double().reshape([tensor.shape[axis] for axis in axes])


def _back(shape: torch.Size, dim: int) -> Back:
    """From rows to the other dimensions of a tensor."""
    sizes = [*shape[:dim], -1, *shape[dim + 1 :]]
    return lambda rows: rows.reshape(sizes)
