"""Surgeries by a wrong planner that run without error and lead channels astray: the proof refuses every one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from blocks import attached_blocks, model_named
from engine.photograph import differences, photograph
from torch import Tensor, nn
from training import adam

from esper_es import Engine, Run, SurgeryResult, blueprint
from esper_es.domain.edits import Edit, Fill, ResizeTensor, SetAttribute
from esper_es.domain.envelope import Cause
from esper_es.domain.index_map import IndexMap
from esper_es.operations import Request, perform
from esper_es.planning.scene import Plan, Scene


class Joined(nn.Module):
    """Two layers side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(6, 4)
        self.two = nn.Linear(6, 4)
        self.leave = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.leave(torch.relu(torch.cat([self.one(x), self.two(x)], 1)))
        return y


class Gated(nn.Module):
    """One half gates the other."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 8)
        self.leave = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.enter(x).chunk(2, 1)
        y: Tensor = self.leave(value * torch.sigmoid(gate))
        return y


class Flat(nn.Module):
    """Channels with positions, unrolled before a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 4, 1)
        self.leave = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.leave(torch.relu(self.conv(x.view(-1, 2, 3))).flatten(1))
        return y


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(3, 4, batch_first=True)
        self.leave = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.leave(self.cell(x.view(-1, 2, 3))[0].mean(1))
        return y


SMALL = {"joined": Joined, "gated": Gated, "flat": Flat, "recurrent": Recurrent}
for _name, _build in SMALL.items():
    blueprint(f"tests/misrouted/{_name}")(_build)


def small_run(engine: Engine, name: str) -> Run:
    module = SMALL[name]()
    return engine.attach(
        module,
        name="model",
        example_inputs=(torch.randn(4, 6),),
        optimizer=adam(module),
        blueprint=f"tests/misrouted/{name}",
    )


def gathered(tensor: str, dim: int, *runs: tuple[int, int]) -> ResizeTensor:
    """Runs of ``(old index, length)``, with -1 for new entries."""
    fill = Fill("zeros") if any(start < 0 for start, _ in runs) else None
    return ResizeTensor(tensor, dim, IndexMap(runs), fill)


def rows(layer: str, *runs: tuple[int, int]) -> list[Edit]:
    """Resize what a layer puts out."""
    return [gathered(f"{layer}.weight", 0, *runs), gathered(f"{layer}.bias", 0, *runs)]


def strided(tensor: str, dim: int) -> ResizeTensor:
    return ResizeTensor(tensor, dim, IndexMap.of(range(0, 32, 2)))


def planned_wrongly(run: Run, edits: Sequence[Edit]) -> SurgeryResult:
    def planner(scene: Scene) -> Plan:
        return Plan(edits=tuple(edits), facts=lambda state, change: ())

    return perform(run.session, Request(operation="wrong", target="", arguments={}, cause=Cause()), planner)


def columns_at_the_end_of_a_concatenation() -> list[Edit]:
    new = SetAttribute("one", "out_features", 6), SetAttribute("leave", "in_features", 10)
    return [*rows("one", (0, 4), (-1, 2)), gathered("leave.weight", 1, (0, 8), (-1, 2)), *new]


def columns_after_their_own_part() -> list[Edit]:
    new = SetAttribute("one", "out_features", 6), SetAttribute("leave", "in_features", 10)
    return [*rows("one", (0, 4), (-1, 2)), gathered("leave.weight", 1, (0, 4), (-1, 2), (4, 4)), *new]


def half_a_chunk() -> list[Edit]:
    new = SetAttribute("enter", "out_features", 6), SetAttribute("leave", "in_features", 3)
    return [*rows("enter", (2, 6)), gathered("leave.weight", 1, (1, 3)), *new]


def both_halves_of_a_chunk() -> list[Edit]:
    new = SetAttribute("enter", "out_features", 6), SetAttribute("leave", "in_features", 3)
    return [*rows("enter", (1, 3), (5, 3)), gathered("leave.weight", 1, (1, 3)), *new]


def flattened(*runs: tuple[int, int]) -> list[Edit]:
    new = SetAttribute("conv", "out_channels", 5), SetAttribute("leave", "in_features", 15)
    return [*rows("conv", (0, 4), (-1, 1)), gathered("leave.weight", 1, *runs), *new]


def gates(*runs: tuple[int, int]) -> list[Edit]:
    tensors = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    return [
        *(gathered(f"cell.{name}", 0, *runs) for name in tensors),
        gathered("cell.weight_hh_l0", 1, (0, 4), (-1, 1)),
        gathered("leave.weight", 1, (0, 4), (-1, 1)),
        SetAttribute("cell", "hidden_size", 5),
        SetAttribute("leave", "in_features", 5),
    ]


WRONG: dict[str, tuple[str, list[Edit]]] = {
    "columns at the end of a concatenation": ("joined", columns_at_the_end_of_a_concatenation()),
    "half a chunk": ("gated", half_a_chunk()),
    "columns of a flattened channel in front": ("flat", flattened((-1, 3), (0, 12))),
    "columns of a flattened channel between": ("flat", flattened((0, 4), (-1, 3), (4, 8))),
    "rows of an LSTM after all its gates": ("recurrent", gates((0, 16), (-1, 4))),
}

RIGHT: dict[str, tuple[str, list[Edit]]] = {
    "columns after their own part": ("joined", columns_after_their_own_part()),
    "both halves of a chunk": ("gated", both_halves_of_a_chunk()),
    "columns of a flattened channel behind": ("flat", flattened((0, 12), (-1, 3))),
    "rows behind each gate of an LSTM": (
        "recurrent",
        gates((0, 4), (-1, 1), (4, 4), (-1, 1), (8, 4), (-1, 1), (12, 4), (-1, 1)),
    ),
}


def assert_caught(run: Run, edits: Sequence[Edit]) -> None:
    before = photograph(run)
    result = planned_wrongly(run, edits)
    assert (result.success, result.check) == (False, "routing"), result.error
    assert differences(before, photograph(run)) == []


@pytest.mark.parametrize("what", WRONG)
def test_a_surgery_that_runs_and_misroutes_is_refused(what: str, engine: Engine) -> None:
    name, edits = WRONG[what]
    assert_caught(small_run(engine, name), edits)


@pytest.mark.parametrize("what", RIGHT)
def test_its_right_counterpart_is_not_refused(what: str, engine: Engine) -> None:
    name, edits = RIGHT[what]
    result = planned_wrongly(small_run(engine, name), edits)
    assert result.success, result.error


def test_attention_of_bert_pruned_by_a_stride_across_heads_is_refused(engine: Engine) -> None:
    run, _ = attached_blocks(engine, model_named("bert"))
    attention = "encoder.layer.0.attention"
    projections = [f"{attention}.self.{name}" for name in ("query", "key", "value")]
    edits: list[Edit] = [strided(f"{p}.{name}", 0) for p in projections for name in ("weight", "bias")]
    edits += [SetAttribute(projection, "out_features", 16) for projection in projections]
    edits += [
        strided(f"{attention}.output.dense.weight", 1),
        SetAttribute(f"{attention}.output.dense", "in_features", 16),
    ]
    assert_caught(run, edits)


def test_a_head_of_gpt2_at_the_end_of_its_packed_projection_is_refused(engine: Engine) -> None:
    run, _ = attached_blocks(engine, model_named("gpt2"))
    attention = "transformer.h.0.attn"
    edits: list[Edit] = [
        gathered(f"{attention}.c_attn.weight", 1, (0, 96), (-1, 24)),
        gathered(f"{attention}.c_attn.bias", 0, (0, 96), (-1, 24)),
        gathered(f"{attention}.c_proj.weight", 0, (0, 32), (-1, 8)),
        SetAttribute(f"{attention}.c_attn", "nf", 120),
        SetAttribute(f"{attention}.c_proj", "nx", 40),
        SetAttribute(attention, "split_size", 40),
        SetAttribute(attention, "num_heads", 5),
    ]
    assert_caught(run, edits)
