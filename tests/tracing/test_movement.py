"""Every movement is checked against the movement itself: a parameter holds its own indices as values."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from esper_es.tracing import standard_rules  # noqa: F401
from esper_es.tracing.calls import CallRecorder
from esper_es.tracing.relations import Relations
from esper_es.tracing.slots import seed
from esper_es.tracing.watching import CarryMemory, OperatorWatch

SHAPE = (2, 6, 4)

MOVEMENTS: dict[str, Callable[[Tensor], Tensor | Sequence[Tensor]]] = {
    "view": lambda w: w.view(2, 24),
    "split view": lambda w: w.view(2, 3, 2, 4),
    "crossing view": lambda w: w.view(4, 3, 4),
    "flatten": lambda w: w.flatten(),
    "permute": lambda w: w.permute(2, 0, 1),
    "transpose": lambda w: w.transpose(0, 2),
    "in-place transpose": lambda w: w.clone().transpose_(0, 2),
    "unsqueeze": lambda w: w.unsqueeze(1),
    "in-place squeeze": lambda w: w.unsqueeze(1).clone().squeeze_(1),
    "in-place unsqueeze": lambda w: w.clone().unsqueeze_(0),
    "restriding that moves nothing": lambda w: w.as_strided((2, 6, 4), (24, 4, 1)),
    "cropping by negative padding": lambda w: torch.nn.functional.pad(w, (-1, 0, 0, -2)),
    "squeeze": lambda w: w.unsqueeze(1).squeeze(1),
    "expand": lambda w: w.unsqueeze(0).expand(3, -1, -1, -1),
    "expand then view": lambda w: w.unsqueeze(2).expand(-1, -1, 5, -1).reshape(2, 30, 4),
    "repeat": lambda w: w.repeat(2, 1, 2),
    "repeat_interleave": lambda w: w.repeat_interleave(3, dim=1),
    "slice": lambda w: w[:, 1:5:2],
    "select": lambda w: w.view(2, 3, 2, 4)[:, :, 1],
    "unbind": lambda w: w.view(2, 3, 2, 4).unbind(2),
    "chunk": lambda w: w.chunk(3, dim=1),
    "split": lambda w: w.split([1, 5], dim=1),
    "cat": lambda w: torch.cat([w[:, 2:], w[:, :2]], dim=1),
    "cat across": lambda w: torch.cat([w, w], dim=0),
    "stack": lambda w: torch.stack([w[:, :3], w[:, 3:]], dim=1),
    "flip": lambda w: w.flip(1),
    "roll": lambda w: w.roll((1, 2), (1, 2)),
    "index_select": lambda w: w.index_select(1, torch.tensor([3, 0, 0])),
    "index": lambda w: w[:, torch.tensor([[3, 0], [1, 1]])],
    "index of one of several dimensions": lambda w: w.view(4, 3, 4)[:, [-2]],
    "expand along what one was taken of": lambda w: w.view(4, 3, 4)[:, 1:2].expand(-1, 5, -1),
    "product that repeats along what one was taken of": lambda w: (
        w.view(4, 3, 4)[:, 1:2] * torch.ones(4, 5, 4)
    ),
    "index of several dimensions": lambda w: w.view(4, 3, 4)[
        torch.tensor([[2], [0]]), torch.tensor([1, 2, 0])
    ],
    "index of dimensions apart": lambda w: w.view(4, 3, 4)[[2, 0], :, [1, 3]],
    "index broadcast beside another": lambda w: w[:, torch.tensor([[2], [0]]), torch.tensor([1, 2, 0])],
    "pixel shuffle order": lambda w: w.view(2, 3, 2, 4).transpose(1, 2).reshape(2, 6, 4),
    "detach and clone": lambda w: w.detach().clone().contiguous(),
    "the data of it": lambda w: w.data,
    "the data of an intermediate": lambda w: w.flip(1).data,
}


@pytest.mark.parametrize("name", MOVEMENTS)
@pytest.mark.parametrize("dim", range(len(SHAPE)))
def test_shadows_move_as_the_elements_do(name: str, dim: int) -> None:
    shape = [1] * len(SHAPE)
    shape[dim] = -1
    model = nn.ParameterDict({"w": torch.arange(SHAPE[dim]).view(shape).expand(SHAPE).double().clone()})
    seeds = seed(model)
    first = seeds.index.tensors[0].first_slots[dim]
    relations = Relations(seeds.index.size)
    memory = CarryMemory(seeds)
    with torch.no_grad(), OperatorWatch(memory, relations, CallRecorder()):
        moved = MOVEMENTS[name](model["w"])
    for result in [moved] if isinstance(moved, Tensor) else moved:
        mine = [s for s in memory.recall(result).shadows if first <= s.ids.flat[0] < first + SHAPE[dim]]
        assert len(mine) == 1
        sizes = [result.shape[d] if d in mine[0].dims else 1 for d in range(result.ndim)]
        ids = np.broadcast_to(mine[0].ids.reshape(sizes), tuple(result.shape)) - first
        assert (ids == result.detach().numpy()).all()
    assert not relations.settled().pins
