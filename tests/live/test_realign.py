"""One module brought to the structure of another, keeping the objects that both have."""

from __future__ import annotations

import pytest
import torch
from models import ConvNet, CustomMLP, TiedNet
from torch import nn

from esper_es.domain.architecture import Connection
from esper_es.domain.errors import ReplayError
from esper_es.fingerprints import fingerprint
from esper_es.projections.live.describe import describe
from esper_es.projections.live.journal import Journal
from esper_es.projections.live.realign import realign
from esper_es.projections.live.wiring import rehost


def plain() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 2, 1))


def wide() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 9, 3), nn.BatchNorm1d(9), nn.ReLU(), nn.Conv1d(9, 2, 1))


def other_classes() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 4, 3), nn.Identity(), nn.Tanh(), nn.Conv1d(4, 2, 1))


def without_bias() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 4, 3, bias=False), nn.BatchNorm1d(4, affine=False))


def reordered() -> nn.Module:
    model = nn.Sequential()
    for name, layer in (
        ("3", nn.Conv1d(2, 4, 1)),
        ("0", nn.Conv1d(4, 2, 3)),
        ("deep", nn.Sequential(nn.ReLU())),
    ):
        model.add_module(name, layer)
    return model


SHAPES = (plain, wide, other_classes, without_bias, reordered)


@pytest.mark.parametrize("target", SHAPES, ids=lambda build: build.__name__)
@pytest.mark.parametrize("live", SHAPES, ids=lambda build: build.__name__)
def test_any_sequence_becomes_any_other(live, target) -> None:  # type: ignore[no-untyped-def]
    module, wanted = live(), describe(target())
    realign(module, target(), Journal())
    assert describe(module).fingerprint == wanted.fingerprint


@pytest.mark.parametrize("target", SHAPES, ids=lambda build: build.__name__)
@pytest.mark.parametrize("live", SHAPES, ids=lambda build: build.__name__)
def test_undone_it_is_what_it_was(live, target) -> None:  # type: ignore[no-untyped-def]
    module = live()
    before, objects = fingerprint(module), [id(part) for part in module.modules()]
    journal = Journal()
    realign(module, target(), journal)
    journal.undo()
    assert (fingerprint(module), [id(part) for part in module.modules()]) == (before, objects)


def test_what_both_have_stays_the_same_object() -> None:
    module = plain()
    objects = {path: id(part) for path, part in module.named_modules()}
    parameters = {name: id(parameter) for name, parameter in module.named_parameters()}
    realign(module, wide(), Journal())
    assert {path: id(part) for path, part in module.named_modules()} == objects
    assert {name: id(parameter) for name, parameter in module.named_parameters()} == parameters


def test_a_widened_layer_forgets_its_old_sizes() -> None:
    module = plain()
    realign(module, wide(), Journal())
    assert "Conv1d(2, 9" in repr(module)
    assert "BatchNorm1d(9" in repr(module)
    assert module(torch.randn(2, 2, 5)).shape == (2, 2, 3)


def test_connections_are_taken_over() -> None:
    module, target = ConvNet(), ConvNet()
    skip = Connection("skip", "skip", "conv1", "conv3", None, 0, "add")
    for path in ("conv1", "conv3"):
        rehost(Journal(), target, path, skip)
    wanted = describe(target).fingerprint
    realign(module, target, Journal())
    assert describe(module).fingerprint == wanted
    module(torch.randn(1, 3, 4, 4))


def test_ties_that_were_cut_are_tied_again_to_the_tensor_that_stayed() -> None:
    module = TiedNet()
    weight = module.encode.weight
    module.decode = nn.Identity()  # type: ignore[assignment]
    realign(module, TiedNet(), Journal())
    assert module.encode.weight is weight
    assert module.decode.weight is weight


def test_tensors_that_the_target_does_not_tie_are_untied() -> None:
    module, target = TiedNet(), TiedNet()
    target.decode = nn.Linear(6, 6, bias=False)
    wanted = describe(target).fingerprint
    realign(module, target, Journal())
    assert describe(module).fingerprint == wanted
    assert module.encode.weight is not module.decode.weight


def test_another_root_class_is_refused() -> None:
    with pytest.raises(ReplayError, match="is a CustomMLP, the log builds another class, ConvNet"):
        realign(CustomMLP(), ConvNet(), Journal())
