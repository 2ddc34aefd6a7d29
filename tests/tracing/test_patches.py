"""Windows taken apart and put together again, where one channel stands at every place of its window; and spectra."""

from __future__ import annotations

import pytest
import torch
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


class Filtered(nn.Module):
    """A global filter: weights multiply the spectrum of an image (Rao et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, 4, 1)
        self.filter = nn.Parameter(torch.randn(4, 6, 4, 2))
        self.after = nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(self.before(x)) * torch.view_as_complex(self.filter)
        return self.after(torch.fft.irfft2(spectrum))


class Mixed(nn.Module):
    """Tokens and channels mixed by a Fourier transform (FNet, Lee-Thorp et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(torch.fft.fftn(self.before(x), dim=(1, 2)).real)


def test_channels_pass_the_transform_of_an_image() -> None:
    group = trace(Filtered(), example(image())).group_of("before")
    assert (group.free, group.units) == (True, 4)
    assert group.member("filter", 0) is not None


def test_channels_that_are_transformed_keep_their_number() -> None:
    pins = trace(Mixed(), example(torch.randn(2, 4, 3))).group_of("before").pins
    assert "is transformed by aten._fft_c2c" in {pin.reason for pin in pins}


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_places_of_a_spectrum_keep_their_number(dim: int) -> None:
    assert not trace(Filtered(), example(image())).group_of("filter", dim).free
