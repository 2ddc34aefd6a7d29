"""The copy on which a change is tried reads the live model's memory, and never writes to it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from esper_es import Engine, Run, SurgeryResult
from esper_es.domain.errors import Refused
from esper_es.lent_tensors import Loan
from esper_es.shadow import on_a_copy


class Clamped(nn.Module):
    """Writes to its own weight in every forward, as weight clipping does."""

    def __init__(self, write: Callable[[nn.Parameter], object]) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.last = nn.Linear(6, 2)
        self.write = write

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.write(self.first.weight)
        return self.last(torch.relu(self.first(x)))


def _in_place(weight: nn.Parameter) -> None:
    with torch.no_grad():
        weight.clamp_(-0.01, 0.01)


def _numpy(weight: nn.Parameter) -> None:
    weight.detach().numpy()[0] = 7.0


WRITES = {
    "data": lambda weight: weight.data.clamp_(-0.01, 0.01),
    "in place": _in_place,
    "numpy": _numpy,
    "copy": lambda weight: weight.data.copy_(torch.zeros_like(weight)),
    "a view": lambda weight: weight.data.view(-1)[3:5].fill_(3.0),
    "out": lambda weight: torch.mul(weight.data, 2.0, out=weight.data),
    "foreach": lambda weight: torch._foreach_mul_([weight.data], 3.0),
    "dlpack": lambda weight: torch.from_dlpack(weight.detach()).fill_(2.0),
    "storage": lambda weight: weight.untyped_storage().fill_(0),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_what_a_forward_writes_to_the_copy_does_not_reach_the_model(
    write: Callable[[nn.Parameter], object],
) -> None:
    model = Clamped(write)
    before = model.first.weight.detach().clone()
    on_a_copy(model, lambda shadow: shadow(torch.randn(3, 4)))
    assert torch.equal(model.first.weight, before)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("write", [w for n, w in WRITES.items() if n != "numpy"])
def test_what_a_forward_writes_to_the_copy_on_a_gpu_does_not_reach_the_model(
    write: Callable[[nn.Parameter], object],
) -> None:
    model = Clamped(write).cuda()
    before, memory = model.first.weight.detach().clone(), _memory(model)
    on_a_copy(model, lambda shadow: shadow(torch.randn(3, 4, device="cuda")))
    assert torch.equal(model.first.weight, before)
    assert _memory(model) == memory


def test_what_is_written_to_the_model_meanwhile_does_not_reach_the_copy() -> None:
    model = nn.Linear(3, 3)

    def unmoved(shadow: nn.Module) -> bool:
        before = model.weight.detach().clone()
        model.weight.data.zero_()
        return torch.equal(shadow.get_parameter("weight"), before)

    assert on_a_copy(model, unmoved)


def test_the_copy_takes_no_memory_for_parameters_that_it_does_not_write_to() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    live = [parameter.data_ptr() for parameter in model.parameters()]

    def taken(shadow: nn.Module) -> list[int]:
        shadow(torch.randn(3, 8)).sum().backward()
        return [torch._C._data_address(parameter) for parameter in shadow.parameters()]

    assert on_a_copy(model, taken) == live


@pytest.fixture
def engine() -> Engine:
    return Engine("sqlite://")


def _attached(engine: Engine) -> Run:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    return engine.attach(model, "model", torch.randn(3, 4))


def _memory(model: nn.Module) -> dict[str, tuple[int, bool]]:
    """Where each tensor lies, and whether it shares its memory with anything."""
    return {
        name: (torch._C._data_address(tensor), torch._C._is_cow_tensor(tensor))
        for name, tensor in model.state_dict(keep_vars=True).items()
    }


def test_what_a_surgery_does_not_change_stays_where_it_is(engine: Engine) -> None:
    run = _attached(engine)
    before = _memory(run.model)
    assert run.surgeon.modify_layer_width(layer_name="0", new_width=10).success
    after = _memory(run.model)
    assert {name: after[name] for name in ("2.bias", "4.weight", "4.bias")} == {
        name: before[name] for name in ("2.bias", "4.weight", "4.bias")
    }


REFUSED = {
    "by the planner": lambda run: run.surgeon.modify_layer_width(layer_name="4", new_width=3),
    "by a validator": lambda run: run.surgeon.add_layer(
        after_layer="0", new_layer=nn.Linear(8, 5), layer_name="new"
    ),
    "unknown layer": lambda run: run.surgeon.remove_layer(layer_name="9"),
}


@pytest.mark.parametrize("refused", REFUSED.values(), ids=REFUSED.keys())
def test_a_refusal_leaves_every_tensor_where_it_is(
    engine: Engine, refused: Callable[[Run], SurgeryResult]
) -> None:
    run = _attached(engine)
    before = _memory(run.model)
    assert not refused(run).success
    assert _memory(run.model) == before


LEFT: dict[str, object] = {}
"""Somebody's cache."""

LEFT_BEHIND = {
    "a view": lambda shadow: LEFT.update(it=shadow.weight.detach().t()),
    "a parameter": lambda shadow: LEFT.update(it=shadow.weight),
    "the copy": lambda shadow: LEFT.update(it=shadow),
    "a graph": lambda shadow: LEFT.update(it=shadow(torch.ones(1, 3, requires_grad=True)).sum()),
    "what it returns": lambda shadow: shadow.weight,
}


@pytest.mark.parametrize("leave", LEFT_BEHIND.values(), ids=LEFT_BEHIND.keys())
def test_what_somebody_keeps_of_a_copy_does_not_move_the_model(leave: Callable[[nn.Module], object]) -> None:
    model = nn.Linear(3, 3)
    before, numbers = _memory(model), model.weight.detach().numpy()
    kept = on_a_copy(model, leave)
    assert _memory(model) == before
    model.weight.data.zero_()
    assert not numbers.any()
    LEFT.clear()
    del kept


def test_what_somebody_keeps_of_a_copy_keeps_its_values() -> None:
    model = nn.Linear(3, 3)
    before = model.weight.detach().clone()
    kept = on_a_copy(model, lambda shadow: shadow.weight)
    model.weight.data.zero_()
    assert torch.equal(kept, before)


@pytest.mark.parametrize("kind", [Refused, ValueError, KeyboardInterrupt, SystemExit])
def test_what_a_failure_held_does_not_move_the_model(kind: type[BaseException]) -> None:
    model = nn.Linear(3, 3)
    before = _memory(model)

    def failing(shadow: nn.Module) -> None:
        view = shadow.get_parameter("weight").detach()
        raise Refused(str(view.shape), "test") if kind is Refused else kind(str(view.shape))

    with pytest.raises(kind):
        on_a_copy(model, failing)
    assert _memory(model) == before


def test_a_part_that_is_shared_by_all_copies_stays_whole() -> None:
    class Shared(nn.Linear):
        def __deepcopy__(self, memo: object) -> Shared:
            return self

    model = nn.Sequential(Shared(3, 3), nn.Linear(3, 2))
    on_a_copy(model, lambda shadow: None)
    assert model(torch.ones(1, 3)).shape == (1, 2)


def test_a_forward_may_resize_its_buffers() -> None:
    class Scratch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scratch", torch.zeros(1, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.get_buffer("scratch").resize_(x.shape).copy_(x) + 1

    assert on_a_copy(Scratch(), lambda shadow: shadow(torch.ones(4, 3)).shape) == (4, 3)


def test_a_model_whose_memory_others_hold_is_copied() -> None:
    model = nn.Linear(3, 3)
    model.share_memory()
    on_a_copy(model, lambda shadow: shadow.weight.data.zero_())
    assert model.weight.any()


def test_parameters_that_are_views_of_one_tensor_are_copied() -> None:
    flat = torch.randn(12)
    model = nn.Linear(3, 3)
    model.weight.data, model.bias.data = flat[:9].view(3, 3), flat[9:]
    on_a_copy(model, lambda shadow: shadow.weight.data.zero_())
    assert flat.all()


SURGERIES = {
    "width": lambda run: run.surgeon.modify_layer_width(layer_name="0", new_width=10),
    "insertion": lambda run: run.surgeon.add_layer(
        after_layer="0", new_layer=nn.Linear(8, 8), layer_name="new"
    ),
    "skip": lambda run: run.surgeon.add_skip_connection(from_layer="1", to_layer="3"),
    "removal": lambda run: run.surgeon.remove_layer(layer_name="3"),
    "explanation": lambda run: run.surgeon.explain("0"),
}


@pytest.mark.parametrize("operate", SURGERIES.values(), ids=SURGERIES.keys())
def test_nobody_keeps_a_copy(
    operate: Callable[[Run], object], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _attached(engine)
    kept: list[bool] = []

    def looking(loan: Loan) -> None:
        loan.borrowed.clear()
        kept.extend(not storage.expired() for storage in loan.storages)

    monkeypatch.setattr(Loan, "end", looking)
    operate(run)
    assert kept
    assert not any(kept)
