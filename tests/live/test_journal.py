"""The journal takes every mutation back, the last one first."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import nested_cnn
from torch import nn

from esper_es.projections.live.describe import describe
from esper_es.projections.live.journal import Journal

FEW = settings(max_examples=60, deadline=None, derandomize=True)


class Renamed(nn.Linear):
    """Of the same layout as its base class."""


def looks(model: nn.Module, extras: dict[str, Any], numbers: list[int]) -> object:
    """Return everything that the mutations below could change."""
    return (
        describe(model).fingerprint,
        [
            (path, id(part), type(part), part.training, part.__dict__.get("note"))
            for path, part in model.named_modules()
        ],
        [
            (
                name,
                id(p),
                p.requires_grad,
                p.detach().clone().numpy().tobytes(),
                p.data_ptr(),
                None if p.grad is None else id(p.grad),
            )
            for name, p in model.named_parameters()
        ],
        [(name, id(b), b.clone().numpy().tobytes()) for name, b in model.named_buffers()],
        list(extras.items()),
        list(numbers),
    )


def mutations(
    model: nn.Module, extras: dict[str, Any], numbers: list[int]
) -> list[Callable[[Journal], None]]:
    weight, running = model.get_parameter("6.weight"), model.get_buffer("1.running_mean")
    head = model.get_submodule("6")
    return [
        lambda j: j.set_storage(weight, torch.zeros(5, 4)),
        lambda j: j.set_storage(weight, torch.zeros(3, 4, dtype=torch.float64)),
        lambda j: j.set_storage(running, torch.ones(9)),
        lambda j: j.set_gradient(weight, None),
        lambda j: j.set_requires_grad(weight, not weight.requires_grad),
        lambda j: j.set_attribute(head, "note", len(numbers)),
        lambda j: j.set_attribute(model, "training", not model.training),
        lambda j: j.set_item(extras, "a", len(extras)),
        lambda j: j.set_item(extras, f"b{len(extras)}", 1),
        lambda j: j.replace_items(extras, {"z": 0}),
        lambda j: j.replace_list(numbers, [*numbers, 7]),
        lambda j: j.set_class(head, Renamed if type(head) is nn.Linear else nn.Linear),
        lambda j: j.insert_child(model, f"new{len(model)}", nn.ReLU(), "0"),  # type: ignore[arg-type]
        lambda j: j.insert_child(model, f"last{len(model)}", nn.ReLU(), None),  # type: ignore[arg-type]
        lambda j: j.remove_child(model, next(iter(model._modules))),
        lambda j: j.replace_child(model, next(iter(model._modules)), nn.Tanh()),
    ]


@given(st.lists(st.integers(0, 15), max_size=12))
@FEW
def test_undo_restores_bytes_identities_flags_and_order(chosen: list[int]) -> None:
    model, extras, numbers = nested_cnn(), {"a": 1, "c": 2}, [1, 2]
    model(torch.randn(2, 2, 6, 6)).sum().backward()
    before = looks(model, extras, numbers)
    journal = Journal()
    steps = mutations(model, extras, numbers)
    for number in chosen:
        steps[number](journal)
    journal.undo()
    assert looks(model, extras, numbers) == before


def test_undoing_twice_does_nothing_more() -> None:
    layer = nn.Linear(2, 2)
    journal = Journal()
    journal.set_attribute(layer, "note", 1)
    journal.undo()
    layer.note = 2  # type: ignore[assignment]
    journal.undo()
    assert layer.note == 2


def test_storage_can_change_while_an_old_graph_holds_the_parameter() -> None:
    layer = nn.Linear(3, 2)
    loss = layer(torch.randn(4, 3)).sum()
    Journal().set_storage(layer.weight, torch.randn(5, 3))
    Journal().set_storage(layer.bias, torch.randn(5))
    layer(torch.randn(4, 3)).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.shape == (5, 3)
    assert float(loss.detach()) == pytest.approx(float(loss.detach()))


def test_the_gradient_goes_with_the_storage_and_comes_back_with_it() -> None:
    layer = nn.Linear(3, 2)
    layer(torch.randn(4, 3)).sum().backward()
    gradient = layer.weight.grad
    journal = Journal()
    journal.set_storage(layer.weight, torch.randn(5, 3))
    assert layer.weight.grad is None
    journal.undo()
    assert layer.weight.grad is gradient


class Broken(dict[str, int]):
    """Is interrupted in the middle of a change, once it has begun."""

    armed = True

    def __setitem__(self, key: str, value: int) -> None:
        super().__setitem__(key, value)
        self._interrupt()

    def update(self, *args: Any, **kwargs: Any) -> None:
        if self.armed:
            self._interrupt()
        super().update(*args, **kwargs)

    def _interrupt(self) -> None:
        if self.armed:
            self.armed = False
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "change",
    [
        lambda journal, broken: journal.set_item(broken, "a", 3),
        lambda journal, broken: journal.set_item(broken, "new", 3),
        lambda journal, broken: journal.replace_items(broken, {"b": 2}),
    ],
    ids=["an entry", "a new entry", "all entries"],
)
def test_a_mutation_that_is_broken_off_is_taken_back_too(change: Callable[[Journal, Broken], None]) -> None:
    broken, journal = Broken(a=1, b=2), Journal()
    with pytest.raises(KeyboardInterrupt):
        change(journal, broken)
    journal.undo()
    assert broken == {"a": 1, "b": 2}


def test_an_interrupt_waits_until_everything_is_taken_back() -> None:
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        numbers, journal = [1, 2], Journal()
        journal.replace_list(numbers, [3])
        journal.record(lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            journal.undo()
        assert numbers == [1, 2]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, handler)
