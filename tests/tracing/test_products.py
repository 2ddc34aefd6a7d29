"""Products of several operands, distances, complex numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from esper_es.tracing import WidthGroup, trace

from .zoo import example


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.both, self.leave = (
            nn.Linear(3, 4),
            nn.Linear(3, 5),
            nn.Bilinear(4, 5, 6),
            nn.Linear(6, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.both(self.one(x), self.two(x)))


class Distances(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.centres, self.leave = (
            nn.Linear(3, 6),
            nn.Parameter(torch.randn(7, 6)),
            nn.Linear(7, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(torch.cdist(self.enter(x), self.centres))


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.real, self.imag, self.leave = nn.Linear(3, 6), nn.Linear(3, 6), nn.Linear(12, 2)
        self.mix = nn.Parameter(torch.randn(6, 6, dtype=torch.cfloat))

    def forward(self, x: Tensor) -> Tensor:
        z = torch.complex(self.real(x), self.imag(x)) @ self.mix
        return self.leave(torch.view_as_real(z).flatten(-2))


class Turned(nn.Module):
    """Neighbouring channels are the parts of one number, which is turned."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.view_as_complex(self.enter(x).unflatten(-1, (-1, 2))) * 1j
        return self.leave(torch.view_as_real(z).flatten(-2))


def group(model: nn.Module, layer: str, dim: int | None = None) -> WidthGroup:
    return trace(model, example(torch.randn(4, 3))).group_of(layer, dim)


def places(found: WidthGroup) -> dict[tuple[str, int], str]:
    assert found.free
    return {(m.tensor, m.dim): m.role for m in found.members}


def test_a_bilinear_layer_reads_both_of_its_inputs() -> None:
    assert places(group(Pair(), "two"))["both.weight", 2] == "consumer"


def test_a_bilinear_layer_makes_its_output() -> None:
    assert places(group(Pair(), "both"))["both.weight", 0] == "producer"


def test_distances_are_taken_over_all_channels() -> None:
    found = group(Distances(), "enter")
    assert found.reduced_by
    assert ("centres", 1) in places(found)


def test_every_centre_makes_a_channel() -> None:
    assert ("leave.weight", 1) in places(group(Distances(), "centres", 0))


def test_both_parts_of_a_number_are_one_channel() -> None:
    assert {("real.weight", 0), ("imag.weight", 0), ("mix", 0)} <= places(group(Complex(), "real")).keys()


def test_a_channel_of_numbers_is_read_as_two() -> None:
    found = group(Complex(), "mix", 1)
    reader = found.member("leave.weight", 1)
    assert (found.free, found.units, reader and reader.covered) == (True, 6, 12)


def test_neighbours_that_are_one_number_come_and_go_together() -> None:
    found = group(Turned(), "enter")
    assert (found.free, found.units, found.unit_size) == (True, 4, 2)


def test_units_that_meet_in_a_product_without_weights_are_told() -> None:
    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key = nn.Linear(3, 6), nn.Linear(3, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.query(x) @ self.key(x).t()

    assert group(Scores(), "query").paired
    assert not group(Pair(), "both").paired


class Apart(nn.Module):
    """Weights with a dimension for heads and another for the places in them, which a product flattens."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.read = nn.Parameter(torch.randn(5, 3, 4)), nn.Parameter(torch.randn(6, 3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bind,hnd->bih", torch.einsum("bih,hnd->bind", x, self.make), self.read)


@pytest.mark.parametrize(("dim", "units"), [(1, 3), (2, 4)])
def test_heads_and_the_places_in_them_stay_apart_where_a_product_sums_over_both(dim: int, units: int) -> None:
    group = trace(Apart(), [((torch.randn(2, 7, 5),), {})]).group_of("make", dim)
    assert (group.units, [(m.tensor, m.dim) for m in group.members]) == (
        units,
        [("make", dim), ("read", dim)],
    )


class Crossed(Apart):
    """What reads it has the two dimensions the other way round, so that what they count is mixed."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Parameter(torch.randn(6, 4, 3))

    def forward(self, x: Tensor) -> Tensor:
        made = torch.einsum("bih,hnd->bind", x, self.make)
        return made.flatten(2) @ self.read.flatten(1).T


def test_dimensions_that_are_flattened_in_another_order_come_and_go_as_one() -> None:
    assert trace(Crossed(), [((torch.randn(2, 7, 5),), {})]).group_of("make", 1).units == 1


class AddedTo(nn.Module):
    """Heads along the batch dimension of a product, to which one number for each head is added."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.leave = (
            nn.Linear(a, b) for a, b in ((5, 12), (5, 12), (5, 12), (12, 2))
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (4, 3)).transpose(1, 2).flatten(0, 1) for f in (self.q, self.k, self.v))
        biases = torch.randn(4, 1, 1).repeat(len(x), 1, 1)
        mixed = torch.baddbmm(biases, q, k.mT).softmax(-1) @ v
        return self.leave(mixed.unflatten(0, (len(x), 4)).transpose(1, 2).flatten(2))


def test_what_is_added_to_a_product_fixes_heads_and_does_not_make_them_one() -> None:
    group = trace(AddedTo(), example(torch.randn(2, 6, 5))).group_of("q")
    assert (group.free, group.units, group.unit_size) == (False, 4, 3)


class MixedPlaces(nn.Module):
    """A convolution whose channels are two tensors and whose positions are the channels of these."""

    def __init__(self, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.enter = nn.Linear(3, 6)
        self.mix = nn.Conv1d(2, 1, kernel, stride=stride, padding=padding)
        self.leave = nn.LazyLinear(2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        left: Tensor = self.leave(self.mix(torch.stack((y, y.relu()), 1)).squeeze(1))
        return left


def mixed_places(*terms: int) -> WidthGroup:
    model, x = MixedPlaces(*terms), torch.randn(4, 3)
    model(x)
    return trace(model, [((x,), {})]).group_of("enter")


def test_positions_of_a_convolution_keep_their_places_where_its_filters_reach_no_further() -> None:
    member = mixed_places(1).member("leave.weight", 1)
    assert member is not None
    assert member.positions.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("terms", [(3, 1, 1), (1, 2), (1, 1, 1)], ids=["wide", "strided", "padded"])
def test_positions_of_other_convolutions_do_not(terms: tuple[int, ...]) -> None:
    assert mixed_places(*terms).member("leave.weight", 1) is None
