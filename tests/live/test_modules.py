"""The few modules of the package's own, and the hosting of others."""

from __future__ import annotations

import contextlib
import pickle
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from models import ConvNet
from torch import nn

from esper_es.domain.architecture import Connection
from esper_es.domain.errors import Refused, UsageError
from esper_es.projections.live.hosting import hosted_class, original_class
from esper_es.projections.live.journal import Journal
from esper_es.projections.live.kernels import (
    _KERNELS,
    KernelSite,
    build_kernel,
    kernel,
    kernel_arguments,
    output_tensors,
)
from esper_es.projections.live.modules import Bypass, NoOp, Residual, SeedSlot
from esper_es.projections.live.structures import entry_at, on_stream, stream_in
from esper_es.projections.live.wiring import rehost, without

X = torch.arange(6.0).reshape(2, 3)


def slot_of(mode: str, alpha: float = 0.0) -> SeedSlot:
    slot = SeedSlot(mode)
    slot.add_module("kernel", nn.Linear(3, 3))
    slot.alpha.fill_(alpha)
    slot.update_route()
    return slot


def test_a_residual_adds_what_its_body_returns() -> None:
    assert torch.equal(Residual(nn.Identity())(X), 2 * X)


def test_a_noop_returns_zeros() -> None:
    assert torch.equal(NoOp()(X), torch.zeros(2, 3))


def test_a_bypass_returns_its_first_argument_in_the_recorded_structure() -> None:
    assert Bypass()(X, 1, two=2) is X
    assert Bypass((0, "x"), {"tuple": ["stream", None, None]})(X) == (X, None, None)


@pytest.mark.parametrize(("mode", "alpha"), [("incubating", 1.0), ("blending", 0.0), ("active", 0.0)])
def test_a_slot_that_does_not_mix_returns_the_bytes_of_its_input(mode: str, alpha: float) -> None:
    slot = slot_of(mode, alpha)
    assert torch.equal(slot.train()(X), X)
    assert slot.eval()(X) is X


@pytest.mark.parametrize("mode", ["blending", "active"])
def test_a_slot_that_mixes_adds_its_weighted_branch(mode: str) -> None:
    slot = slot_of(mode, 0.25)
    torch.testing.assert_close(slot(X), X + 0.25 * slot.kernel(X))


def test_an_incubating_branch_learns_as_if_its_output_counted_in_full() -> None:
    slot = slot_of("incubating")
    x = X.clone().requires_grad_()
    (slot.train()(x) * 3.0).sum().backward()
    assert torch.equal(slot.get_parameter("kernel.bias").grad, torch.full((3,), 6.0))  # type: ignore[arg-type]
    assert torch.equal(x.grad, torch.full((2, 3), 3.0))  # type: ignore[arg-type]


def test_a_muted_slot_returns_its_input_and_is_unmuted_after_an_error() -> None:
    slot = slot_of("active", 1.0)
    with slot.muted():
        assert slot(X) is X
    with contextlib.suppress(RuntimeError), slot.muted():
        raise RuntimeError
    assert not torch.equal(slot(X), X)


def test_a_slot_of_an_unknown_mode_is_refused() -> None:
    with pytest.raises(UsageError, match="incubating, blending or active"):
        SeedSlot("sleeping")


@pytest.mark.parametrize("name", sorted(_KERNELS))
@pytest.mark.parametrize(
    ("spatial", "shape"), [(0, (2, 6)), (0, (2, 5, 6)), (1, (2, 6, 5)), (2, (2, 6, 4, 4))]
)
def test_a_kernel_keeps_the_shape_or_says_that_it_cannot_grow_there(
    name: str, spatial: int, shape: tuple[int, ...]
) -> None:
    site = KernelSite(channels=6, spatial=spatial)
    if (name, spatial) == ("conv_small", 0):
        with pytest.raises(Refused, match="it grows only after layers with"):
            build_kernel(name, site, kernel_arguments(name, {}))
        return
    grown = build_kernel(name, site, kernel_arguments(name, {}))
    assert grown(torch.randn(shape)).shape == shape


@pytest.mark.parametrize("name", sorted(_KERNELS))
def test_with_its_output_tensors_at_zero_a_kernel_adds_nothing(name: str) -> None:
    grown = build_kernel(name, KernelSite(6, 2), kernel_arguments(name, {}))
    with torch.no_grad():
        for tensor in output_tensors(grown):
            grown.get_parameter(tensor).zero_()
    assert not bool(grown(torch.randn(2, 6, 4, 4)).any())


def test_an_even_kernel_size_is_refused() -> None:
    with pytest.raises(Refused, match="odd kernel_size"):
        build_kernel("conv_small", KernelSite(6, 2), {"kernel_size": 4})


def test_the_name_of_a_kernel_is_taken_once() -> None:
    with pytest.raises(UsageError, match="'lora' is registered already"):
        kernel("lora")(lambda site: [])


Pair = namedtuple("Pair", ["first", "second"])


@pytest.mark.parametrize(
    "output",
    [X, (X, 1), [X, 1], {"a": X, "b": 1}, OrderedDict(a=X, b=1), Pair(X, 1)],
    ids=lambda output: type(output).__name__,
)
def test_the_first_tensor_of_any_structure_is_changed_and_the_structure_stays(output: Any) -> None:
    changed = on_stream(output, lambda tensor: tensor + 1)
    assert type(changed) is type(output)
    if isinstance(output, torch.Tensor):
        assert torch.equal(changed, X + 1)
    else:
        first, second = list(changed.values() if isinstance(changed, dict) else changed)
        assert torch.equal(first, X + 1)
        assert second == 1


@dataclass(frozen=True)
class Answer:
    scores: torch.Tensor
    other: int


@pytest.mark.parametrize(
    ("output", "location"),
    [
        ((None, X), (1,)),
        ({"mask": torch.ones(2, dtype=torch.bool), "inner": {"scores": X}}, ("inner", "scores")),
        ([(None, X), X], (0, 1)),
        (Answer(X, 1), ("scores",)),
        ((torch.ones(2, dtype=torch.int64), None), (0,)),
    ],
)
def test_the_stream_of_a_nested_output_is_its_first_floating_tensor(
    output: Any, location: tuple[Any, ...]
) -> None:
    assert stream_in(output) == location
    changed = on_stream(output, lambda tensor: tensor + 1)
    assert torch.equal(entry_at(changed, location), entry_at(output, location) + 1)
    assert type(changed) is type(output)


def test_a_bypass_returns_records_that_are_read_in_every_way() -> None:
    record = ["Output", [["hidden", "stream"], ["cache", {"argument": [1, "cache"]}], ["left", None]]]
    made = Bypass((0, "x"), {"record": record})(X, cache="kept")
    assert made.hidden is made[0] is made["hidden"] is X
    assert (made.cache, made.left, list(made)) == ("kept", None, ["hidden", "cache"])


@pytest.mark.parametrize("form", ["namedtuple", "dataclass"])
def test_a_bypass_returns_results_with_named_fields(form: str) -> None:
    made = Bypass((0, None), {form: ["Output", [["one", {"value": 3}], ["two", "stream"]]]})(X)
    assert (type(made).__name__, made.one) == ("Output", 3)
    assert made.two is X


def test_a_bypass_that_is_called_without_its_stream_says_so() -> None:
    with pytest.raises(TypeError, match="let its 'hidden' through"):
        Bypass((1, "hidden"))(X)


def test_an_output_without_a_place_for_tensors_is_refused() -> None:
    with pytest.raises(TypeError, match="returns str can't host"):
        on_stream("text", lambda tensor: tensor)


def test_the_hosted_class_of_a_class_is_made_once_and_is_a_subclass() -> None:
    assert hosted_class(nn.Linear) is hosted_class(nn.Linear)
    assert issubclass(hosted_class(nn.Linear), nn.Linear)


def test_a_host_pickles_by_its_own_class() -> None:
    model = ConvNet()
    skip = Connection("skip", "skip", "conv1", "conv3", None, 0, "add")
    for path in ("conv1", "conv3"):
        rehost(Journal(), model, path, skip)
    pickled = pickle.dumps(model)
    assert b"Hosted" not in pickled
    assert original_class(pickle.loads(pickled)) is ConvNet


def test_taking_the_last_connection_off_leaves_no_host_and_no_bus() -> None:
    model = ConvNet()
    before = [(type(m), sorted(m.__dict__)) for m in model.modules()]
    skip = Connection("skip", "skip", "conv1", "conv3", None, 0, "add")
    for path in ("conv1", "conv3"):
        rehost(Journal(), model, path, skip)
    without(Journal(), model, "skip")
    assert [(type(m), sorted(m.__dict__)) for m in model.modules()] == before
