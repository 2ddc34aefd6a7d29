"""Two projections of the same edits agree: the module's description and the evolved architecture value."""

from __future__ import annotations

import copy

import pytest
import torch
from models import ConvNet, TiedNet
from torch import nn

from esper_es.domain.architecture import Connection
from esper_es.domain.edits import (
    AddModule,
    Connect,
    Disconnect,
    Edit,
    Fill,
    Initial,
    RemoveModule,
    ReplaceModule,
    ResizeTensor,
    ScaleTensor,
    SetAttribute,
    SetScalar,
)
from esper_es.domain.evolution import evolved
from esper_es.domain.index_map import NEW, IndexMap
from esper_es.fingerprints import fingerprint
from esper_es.projections.live.apply import apply_edits
from esper_es.projections.live.build import fragment_of, wrapped
from esper_es.projections.live.describe import describe
from esper_es.projections.live.journal import Journal
from esper_es.projections.live.live import Live
from esper_es.projections.live.material import Blank, Derived
from esper_es.projections.live.modules import SeedSlot


def slot(channels: int) -> nn.Module:
    module = SeedSlot()
    module.add_module("kernel", nn.Sequential(nn.Conv2d(channels, channels, 1)))
    return module


ADDED = AddModule("new", fragment_of(nn.Conv2d(6, 6, 1)), None, Initial(seed=3), like="conv1")
SLOT = AddModule("seed", fragment_of(slot(6)), "conv2", Initial(seed=4), like="conv2")
AFTER = Connect(Connection("after:new", "after", "conv1", "conv1", "new", 0))
SEED_AFTER = Connect(Connection("after:seed", "after", "conv2", "conv2", "seed", 1))
SKIP = Connect(Connection("skip", "skip", "conv1", "conv3", None, 2, "add"))
WIDER = IndexMap.of([0, 1, 2, 3, 4, 5, NEW, NEW])
KERNEL = fragment_of(slot(6)).subtree("kernel")

EDITS: dict[str, tuple[Edit, ...]] = {
    "an addition": (ADDED, AFTER),
    "an addition behind a sibling": (SLOT,),
    "a skip": (SKIP,),
    "a skip through a module": (
        ADDED,
        Connect(Connection("skip", "skip", "conv1", "conv3", "new", 0, "add")),
    ),
    "a disconnected skip": (SKIP, Disconnect("skip")),
    "a removal": (RemoveModule("conv2"),),
    "a removed insertion": (ADDED, AFTER, Disconnect("after:new"), RemoveModule("new")),
    "a replacement": (ReplaceModule("conv2", fragment_of(nn.Identity()), Initial()),),
    "a replaced host": (SKIP, ReplaceModule("conv1", fragment_of(nn.Conv2d(3, 6, 1)), Initial(seed=1))),
    "a seed turned into a layer": (
        SLOT,
        SEED_AFTER,
        SetScalar("seed.alpha", 0.5),
        SetAttribute("seed", "mode", "active"),
        ScaleTensor("seed.kernel.0.weight", 0.5),
        ReplaceModule(
            "seed", wrapped("residual", {}, "body", KERNEL), Initial(), keep="kernel", keep_as="body"
        ),
    ),
    "a widening": (
        ResizeTensor("conv1.weight", 0, WIDER, Fill("kaiming", {"fan_in": 27.0}, seed=5)),
        ResizeTensor("conv1.bias", 0, WIDER, Fill("zeros")),
        ResizeTensor("conv2.weight", 1, WIDER, Fill("zeros")),
        SetAttribute("conv1", "out_channels", 8),
        SetAttribute("conv2", "in_channels", 8),
    ),
    "a narrowing": (
        ResizeTensor("head.weight", 1, IndexMap.of([1, 3])),
        SetAttribute("head", "in_features", 2),
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_the_module_becomes_what_the_architecture_value_says(name: str) -> None:
    model = ConvNet()
    expected = evolved(describe(model), EDITS[name])
    apply_edits(Live(model), EDITS[name], Derived(), Journal())
    assert describe(model).fingerprint == expected.fingerprint


@pytest.mark.parametrize("name", EDITS)
def test_undone_the_module_is_as_it_was(name: str) -> None:
    model = ConvNet()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    before = (fingerprint(model), copy.deepcopy(optimizer.state_dict()), [type(m) for m in model.modules()])
    journal = Journal()
    apply_edits(Live(model, optimizer), EDITS[name], Derived(), journal)
    journal.undo()
    assert fingerprint(model) == before[0]
    assert str(optimizer.state_dict()) == str(before[1])
    assert [type(m) for m in model.modules()] == before[2]


@pytest.mark.parametrize("name", EDITS)
def test_the_recorded_seeds_give_the_same_bytes_again(name: str) -> None:
    one = ConvNet()
    other = copy.deepcopy(one)
    for model in (one, other):
        torch.manual_seed(hash(id(model)) % 1000)
        apply_edits(Live(model), EDITS[name], Derived(), Journal())
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize("name", EDITS)
def test_blank_material_gives_the_same_structure(name: str) -> None:
    model = ConvNet()
    expected = evolved(describe(model), EDITS[name])
    apply_edits(Live(model), EDITS[name], Blank(), Journal())
    assert describe(model).fingerprint == expected.fingerprint


def test_a_tied_tensor_is_resized_under_either_of_its_names() -> None:
    model = TiedNet()
    edits = (ResizeTensor("decode.weight", 0, IndexMap.of([0, 1, 2, 3, 4, 5, NEW]), Fill("zeros")),)
    expected = evolved(describe(model), edits)
    apply_edits(Live(model), edits, Derived(), Journal())
    assert describe(model).fingerprint == expected.fingerprint
    assert model.encode.weight.shape == (7, 6)


@pytest.mark.parametrize(
    "edit",
    [
        RemoveModule("nowhere.inside"),
        ResizeTensor("nowhere.weight", 0, IndexMap.of([0])),
        SetAttribute("nowhere", "mode", "active"),
        SetScalar("conv1.alpha", 0.5),
        Connect(Connection("skip", "skip", "nowhere", "conv3", None, 0, "add")),
    ],
    ids=lambda edit: type(edit).__name__,
)
def test_an_edit_of_what_is_not_there_says_its_name(edit: Edit) -> None:
    with pytest.raises(KeyError, match=r"nowhere|alpha"):
        apply_edits(Live(ConvNet()), (edit,), Derived(), Journal())
