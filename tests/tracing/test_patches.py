"""Windows taken apart and put together again: one channel stands at every place of its window."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from esper_es.tracing import Trace, trace

from .zoo import example, image


class Unfolded(nn.Module):
    """A convolution, spelled out as a product over windows."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, 4, 1)
        self.after = nn.Linear(4 * 9, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(F.unfold(self.before(x), 3).transpose(1, 2))


class Refolded(nn.Module):
    """A product that makes windows, which overlap when they are put together."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(3, 4 * 9)
        self.after = nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        windows = self.before(x.flatten(2).transpose(1, 2)).transpose(1, 2)
        return self.after(F.fold(windows, 8, 3))


def units_and_partner(found: Trace, layer: str) -> tuple[int, int]:
    group = found.group_of(layer)
    assert group.free
    partner = group.member("after.weight", 1)
    assert partner is not None
    return group.units, partner.covered


def test_a_channel_is_read_at_every_place_of_its_window() -> None:
    assert units_and_partner(trace(Unfolded(), example(image())), "before") == (4, 36)


def test_the_rows_that_make_the_places_of_a_channel_come_and_go_together() -> None:
    assert units_and_partner(trace(Refolded(), example(image())), "before") == (4, 4)
