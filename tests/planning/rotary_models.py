"""Attentions that keep what turns their heads in one tensor of their own, in one of several forms."""

from __future__ import annotations

from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_es import blueprint

from .transformer_models import Transformer

POSITIONS = 12


def angles(size: int) -> Tensor:
    return torch.outer(torch.arange(POSITIONS), 1e4 ** -(torch.arange(0, size, 2) / size))


def sines_and_cosines(form: str, table: Tensor) -> tuple[Tensor, Tensor]:
    """Read a table of a form."""
    if form == "complex":
        return table.imag, table.real
    if form in ("stacked", "coarse", "stretched"):
        return table[..., 1].float(), table[..., 0].float()
    if form == "in-front":
        return table[1, :, 0], table[0, :, 0]
    if form == "cosines-first":
        cosines, sines = table.chunk(2, -1)
        return sines, cosines
    return table[..., ::2], table[..., 1::2]


def made(form: str, size: int) -> Tensor:
    """Make a table of a form."""
    found = angles(size)
    sines, cosines = found.sin(), found.cos()
    if form == "complex":
        return torch.polar(torch.ones_like(found), found)
    if form == "stacked":
        return torch.stack((cosines, sines), -1)
    if form == "coarse":
        return torch.stack((cosines, sines), -1).bfloat16()
    if form == "stretched":
        return 1.25 * torch.stack((cosines, sines), -1)
    if form == "in-front":
        return torch.stack((cosines[:, None], sines[:, None]))
    if form == "cosines-first":
        return torch.cat((cosines, sines), -1)
    return torch.stack((sines, cosines), -1).flatten(1)


FORMS = ("complex", "stacked", "coarse", "stretched", "in-front", "cosines-first", "in-turn")


class Rotary(nn.Module):
    """Neighbours are turned together.

    Args:
        form: of the table.
        held: where it is: a ``"buffer"``, ``"plain"`` for an attribute, ``"list"`` for one in a list, ``"code"`` for
            none at all: what turns heads is a number that nobody sees.
    """

    table: Tensor

    def __init__(self, form: str, held: str = "buffer") -> None:
        super().__init__()
        self.heads, self.size, self.form, self.held = 4, 8, form, held
        self.qkv, self.out = nn.Linear(16, 96), nn.Linear(32, 16)
        if held == "buffer":
            self.register_buffer("table", made(form, 8), persistent=False)
        elif held == "plain":
            self.table = made(form, 8)
        elif held == "list":
            self.tables = [made(form, 8)]

    def turn(self, x: Tensor) -> Tensor:
        kept = getattr(self, "table", None)
        if kept is None:
            kept = self.tables[0] if self.held == "list" else made(self.form, 8)
        sines, cosines = (part[: x.shape[1], None] for part in sines_and_cosines(self.form, kept))
        if self.form == "complex":
            turned = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.complex(cosines, sines)
            return torch.view_as_real(turned).flatten(-2)
        left, right = x[..., ::2], x[..., 1::2]
        return torch.stack((left * cosines - right * sines, right * cosines + left * sines), -1).flatten(-2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, self.size)).unbind(2)
        turned = (part.transpose(1, 2) for part in (self.turn(q), self.turn(k), v))
        mixed: Tensor = self.out(F.scaled_dot_product_attention(*turned).transpose(1, 2).flatten(2))
        return mixed


@cache
def rotary(form: str, held: str = "buffer") -> Transformer:
    name = f"rotary-{form}-{held}"
    build = partial(Rotary, form, held)
    blueprint(f"tests/width/{name}")(build)
    return Transformer(name, build, lambda: {"x": torch.randn(2, 6, 16)})
