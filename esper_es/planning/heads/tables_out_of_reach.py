"""What to say where rotary positions turn heads by numbers that no surgery can change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from attrs import frozen
from torch import nn

from esper_es.domain.errors import Refused
from esper_es.planning.heads.rotary_tables import read_table
from esper_es.planning.heads.targets import HeadTarget

OF_SIZE = ("fixed_width", "coupled", "not_preserved")
"""Checks of refusals that a table of the wrong size may be the cause of."""


@frozen(eq=False)
class _Kept:
    """A tensor that a module keeps.

    Attributes:
        path: of the module.
        name: of the attribute; with an index or a key, where that is a collection.
        tensor: as it is.
        others: what the module keeps besides.
    """

    path: str
    name: str
    tensor: torch.Tensor
    others: tuple[torch.Tensor, ...]

    def __str__(self) -> str:
        where = f"{self.path}.{self.name}" if self.path else self.name
        sizes = " x ".join(map(str, self.tensor.shape))
        return f"{where} ({sizes}, {str(self.tensor.dtype).removeprefix('torch.')})"


def of_tables(root: nn.Module, targets: tuple[HeadTarget, ...], refusal: Refused) -> Refused:
    """Return the refusal itself, or what it comes from, where rotary positions turn heads by no table in reach."""
    turned = next((target for target in targets if target.turned), None)
    if turned is None or refusal.check not in OF_SIZE:
        return refusal
    if any(m.role == "table" for target in targets if target.turned for m in target.kind.members):
        return refusal
    pairs = turned.kind.units
    turning = (
        f"rotary positions turn the channels of a head of {turned.heads.tensor} {turned.kind.per_head} at a time, "
        f"with {pairs} frequencies"
    )
    plain = [str(kept) for kept in _plain(root) if read_table(kept.tensor, kept.others, pairs) is not None]
    if plain:
        return Refused(
            f"{turning}, and the table of these is kept as a plain attribute: {', '.join(plain)}. A surgery, its log "
            "and its replay know parameters and buffers only; keep the table with register_buffer(name, table, "
            "persistent=False) instead, and heads can change their size",
            "rotary",
        )
    unread = [str(kept) for kept in _buffers(root) if {pairs, 2 * pairs} & set(kept.tensor.shape[-2:])]
    seen = f" (looked at: {', '.join(unread)})" if unread else ""
    return Refused(
        f"{turning}, and no buffer was recognized as their table{seen}: one that holds the frequencies themselves, "
        "falling, or the sines and cosines of their multiples, one row for each position, as complex numbers, "
        "stacked, side by side or in two buffers. Numbers that code makes otherwise while the model runs can't be "
        f"changed with the heads; without that, {refusal}",
        "rotary",
    )


def _plain(root: nn.Module) -> Iterator[_Kept]:
    """Tensors that are neither parameters nor buffers, those in lists and dictionaries too."""
    for path, module in root.named_modules():
        found = {
            name: tensor
            for attribute, value in vars(module).items()
            if attribute not in ("_parameters", "_buffers", "_modules")
            for name, tensor in _in(attribute, value)
        }
        yield from (_Kept(path, name, tensor, tuple(found.values())) for name, tensor in found.items())


def _in(name: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        if value.device.type != "meta":
            yield name, value
    elif isinstance(value, list | tuple):
        yield from ((f"{name}[{i}]", each) for i, each in enumerate(value) if isinstance(each, torch.Tensor))
    elif isinstance(value, Mapping):
        yield from (
            (f"{name}[{key!r}]", each) for key, each in value.items() if isinstance(each, torch.Tensor)
        )


def _buffers(root: nn.Module) -> Iterator[_Kept]:
    for name, buffer in root.named_buffers():
        if buffer.is_floating_point() or buffer.is_complex():
            path, _, own = name.rpartition(".")
            yield _Kept(path, own, buffer, ())
