"""New entries come from where their fill says: from a tensor of their own, or out of one with others."""

from __future__ import annotations

import pytest
import torch
from attrs import evolve

from esper_es.domain.edits import Fill
from esper_es.domain.errors import ReplayError
from esper_es.projections.live.material import Recorded


class Shelf:
    """Tensors by digest that count how often they were taken."""

    def __init__(self, **tensors: torch.Tensor) -> None:
        self.tensors = tensors
        self.taken: list[str] = []

    def get(self, digest: str) -> torch.Tensor:
        self.taken.append(digest)
        return self.tensors[digest].clone()


SINGLE = torch.float32
FLAT = torch.arange(24.0)
FILL = Fill("kaiming", {"fan_in": 3.0}, 7, "flat", offset=4)


def test_a_slice_of_its_own_is_taken_whole() -> None:
    source = Recorded(Shelf(own=FLAT.view(4, 6)))
    assert torch.equal(source.slice(Fill("kaiming", {}, 7, "own"), (4, 6), SINGLE), FLAT.view(4, 6))


def test_a_slice_among_others_begins_at_its_offset() -> None:
    source = Recorded(Shelf(flat=FLAT))
    assert torch.equal(source.slice(FILL, (2, 3), SINGLE), torch.arange(4.0, 10.0).view(2, 3))


def test_slices_in_one_tensor_load_it_once_for_each_dtype() -> None:
    shelf = Shelf(flat=FLAT, halves=FLAT.half())
    source = Recorded(shelf)
    for _ in range(3):
        source.slice(FILL, (2, 3), SINGLE)
        source.slice(evolve(FILL, digest="halves"), (2, 3), torch.float16)
    assert shelf.taken == ["flat", "halves"]


@pytest.mark.parametrize(
    ("fill", "shape", "dtype"),
    [
        (FILL, (7, 3), SINGLE),
        (evolve(FILL, offset=-1), (2, 3), SINGLE),
        (evolve(FILL, offset=25), (0, 3), SINGLE),
        (FILL, (2, 3), torch.float16),
        (evolve(FILL, digest="square"), (2, 3), SINGLE),
    ],
    ids=["beyond the end", "before the start", "behind the end", "of another dtype", "not flat"],
)
def test_what_does_not_lie_there_is_refused(fill: Fill, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    source = Recorded(Shelf(flat=FLAT, square=FLAT.view(4, 6)))
    with pytest.raises(ReplayError, match="was expected from element"):
        source.slice(fill, shape, dtype)


def test_what_has_another_shape_than_its_slice_is_refused() -> None:
    source = Recorded(Shelf(own=FLAT.view(4, 6)))
    with pytest.raises(
        ReplayError, match=r"is \(4, 6\) torch\.float32, \(6, 4\) torch\.float32 was expected"
    ):
        source.slice(Fill("kaiming", {}, 7, "own"), (6, 4), SINGLE)
