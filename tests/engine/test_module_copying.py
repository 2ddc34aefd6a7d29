"""Copies of modules are what ``copy.deepcopy`` would make of them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from esper_es.module_copying import deep_copy


class Registry(nn.Module):
    """Has children in other places than its own, in circles, and a dictionary that it shares with a child."""

    def __init__(self) -> None:
        super().__init__()
        self.shared: dict[str, int] = {}
        self.child = nn.Linear(2, 2)
        self.child.shared = self.shared  # type: ignore[assignment]
        self.listed = [self.child, {"me": self}]
        self.names = {"a", "b"}
        self.pair = (1, [2, 3])


class Counting(nn.Module):
    """Says itself how it is copied."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.copies = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Counting:
        made = Counting()
        made.copies = self.copies + 1
        return made


class Forgetful(nn.Module):
    """Says itself what is copied of it."""

    def __init__(self) -> None:
        super().__init__()
        self.kept, self.lost = 1, 2

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "lost"}


class Prepared(nn.Module):
    """Has to do something with what it is given back."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.prepared = True


def test_tensors_are_copied() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    copied = deep_copy(model, {})
    copied[0].weight.data.zero_()
    assert model[0].weight.any()


def test_attributes_that_are_one_object_stay_one() -> None:
    copied = deep_copy(Registry(), {})
    assert copied.shared is copied.child.shared


def test_a_module_in_several_places_stays_one() -> None:
    copied = deep_copy(Registry(), {})
    assert (copied.listed[0], copied.listed[1]["me"]) == (copied.child, copied)


@pytest.mark.parametrize("name", ["shared", "names", "pair", "listed"])
def test_containers_are_copied(name: str) -> None:
    model = Registry()
    found = getattr(deep_copy(model, {}), name)
    assert (type(found), found is getattr(model, name)) == (type(getattr(model, name)), False)


def test_a_module_that_says_how_it_is_copied_is_asked() -> None:
    assert deep_copy(nn.Sequential(Counting()), {})[0].copies == 1


def test_a_module_that_says_what_is_copied_of_it_is_asked() -> None:
    copied = deep_copy(nn.Sequential(Forgetful()), {})[0]
    assert (copied.kept, hasattr(copied, "lost")) == (1, False)


def test_a_module_is_told_what_it_was_given_back() -> None:
    assert deep_copy(Prepared(), {}).prepared


def test_what_was_copied_already_is_used() -> None:
    model, weight = nn.Linear(2, 2), nn.Parameter(torch.zeros(2, 2))
    assert deep_copy(model, {id(model.weight): weight}).weight is weight


MODELS = {
    "transformer": lambda: nn.Transformer(8, 2, 1, 1, 16),
    "recurrent": lambda: nn.LSTM(4, 4, 2),
    "tied": lambda: _tied(),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(3, 3)),
    "old weight norm": lambda: nn.utils.spectral_norm(nn.Linear(3, 3)),
    "lists": lambda: nn.ParameterList([nn.Parameter(torch.ones(2))]),
    "dictionaries": lambda: nn.ModuleDict({"a": nn.ParameterDict({"b": nn.Parameter(torch.ones(2))})}),
    "quantized": lambda: torch.ao.nn.quantized.dynamic.Linear(3, 3),
}


def _tied() -> nn.Module:
    model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 4, bias=False))
    model[1].weight = model[0].weight
    return model


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS.keys())
def test_all_modules_have_the_attributes_that_deepcopy_gives_them(build: Any) -> None:
    model = build()
    expected, found = copy.deepcopy(model), deep_copy(model, {})
    assert [(path, type(part).__name__, list(vars(part))) for path, part in found.named_modules()] == [
        (path, type(part).__name__, list(vars(part))) for path, part in expected.named_modules()
    ]


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS.keys())
def test_all_tensors_have_the_values_that_deepcopy_gives_them(build: Any) -> None:
    model = build()
    expected, found = copy.deepcopy(model).state_dict(), deep_copy(model, {}).state_dict()
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert not isinstance(value, torch.Tensor) or torch.equal(value, found[name])


class Inspecting(nn.Module):
    """Looks at its child once it is given back what it had."""

    def __init__(self) -> None:
        super().__init__()
        self.child = nn.Linear(2, 3)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.width = self.child.out_features


def test_a_module_finds_its_children_complete() -> None:
    assert deep_copy(nn.Sequential(Inspecting()), {})[0].width == 3
