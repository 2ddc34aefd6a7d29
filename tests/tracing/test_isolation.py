from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from esper_es.domain.errors import EsperError, UsageError
from esper_es.tracing import Operation, rule, trace

from .zoo import ResNet, example, image


def noisy_model() -> nn.Module:
    class Noisy(ResNet):
        def forward(self, x: Tensor) -> Tensor:
            random.random()
            np.random.rand()
            return super().forward(torch.nn.functional.dropout(x + torch.randn_like(x), 0.5, training=True))

    return Noisy()


def test_parameters_and_statistics_are_bit_identical_after_a_trace() -> None:
    model = ResNet().train()
    before = copy.deepcopy(model.state_dict())
    trace(model, example(image()))
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_random_generators_are_where_they_were() -> None:
    model = noisy_model()
    x = image()
    states = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    trace(model, example(x))
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert states[2] == np.random.get_state()[1].tolist()


def test_training_flags_are_as_they_were_module_by_module() -> None:
    model = ResNet().train()
    model.blocks[1].eval()
    before = [module.training for module in model.modules()]
    trace(model, example(image()))
    assert [module.training for module in model.modules()] == before


def test_a_train_method_with_side_effects_is_not_called() -> None:
    class Counting(nn.Linear):
        switched = 0

        def train(self, mode: bool = True) -> Counting:
            self.switched += 1
            return super().train(mode)

    model = Counting(3, 2)
    trace(model, example(torch.randn(4, 3)))
    assert model.switched == 0


def test_the_model_runs_in_evaluation_mode_without_gradients() -> None:
    seen = []

    class Asking(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append((self.training, torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
            return super().forward(x)

    model = Asking(3, 2).train()
    with torch.inference_mode():
        trace(model, example(torch.randn(4, 3)))
    assert seen == [(False, False, False)]


def test_what_the_forward_keeps_on_its_modules_is_taken_back() -> None:
    class Keeping(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 2)
            self.cache: dict[str, Tensor] = {}
            self.history: list[int] = [1]

        def forward(self, x: Tensor) -> Tensor:
            self.cache["doubled"] = 2 * self.weight
            self.history.append(len(x))
            self.last = x
            return x @ self.cache["doubled"].t()

    model = Keeping()
    cache = model.cache
    trace(model, example(torch.randn(4, 3)))
    assert model.cache is cache
    assert (model.cache, model.history, hasattr(model, "last")) == ({}, [1], False)


def test_a_buffer_that_the_forward_replaces_is_the_one_it_was() -> None:
    class Measuring(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places: Tensor
            self.register_buffer("places", torch.zeros(1, 3), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            if len(self.places) != len(x):
                self.places = torch.randn(len(x), 3)
            return x + self.places

    model = Measuring()
    before = model.places
    trace(model, [((torch.randn(4, 3),), {})])
    assert model.places is before


def test_gradients_stay() -> None:
    model = nn.Linear(3, 2)
    model(torch.randn(4, 3)).sum().backward()
    gradient = model.weight.grad
    trace(model, example(torch.randn(4, 3)))
    assert model.weight.grad is gradient


def test_hooks_are_taken_off() -> None:
    model = ResNet()
    trace(model, example(image()))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_examples_are_not_written_to() -> None:
    x = image()
    before = x.clone()
    trace(nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 2, 1)), example(x))
    assert torch.equal(x, before)


def test_backend_switches_are_as_they_were() -> None:
    def switches() -> list[bool]:
        return [
            torch.backends.mha.get_fastpath_enabled(),
            bool(torch.backends.mkldnn.enabled),
            bool(torch.backends.cudnn.enabled),
            torch.backends.cuda.math_sdp_enabled(),
            torch.backends.cuda.flash_sdp_enabled(),
        ]

    before = switches()
    trace(ResNet(), example(image()))
    assert switches() == before


def test_the_attention_fast_path_hides_nothing() -> None:
    layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True)
    group = trace(layer, example(torch.randn(2, 7, 12))).group_of("linear1")
    assert {m.tensor for m in group.members} == {"linear1.weight", "linear1.bias", "linear2.weight"}


def test_inputs_made_under_inference_mode_are_followed_too() -> None:
    with torch.inference_mode():
        x = torch.randn(4, 3)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    assert trace(model, example(x)).group_of("0").free


def test_everything_comes_back_when_the_model_fails() -> None:
    class Failing(ResNet):
        def forward(self, x: Tensor) -> Tensor:
            torch.rand(1)
            return super().forward(x[:, :2])

    model = Failing().train()
    state = torch.get_rng_state()
    x = image()
    torch.set_rng_state(state)
    with pytest.raises(UsageError, match="the model fails on example 0"):
        trace(model, example(x))
    assert model.training
    assert torch.equal(state, torch.get_rng_state())
    assert not any(m._forward_hooks for m in model.modules())


def test_a_second_trace_of_the_same_model_says_the_same() -> None:
    model, x = ResNet(), image()
    assert trace(model, example(x)).as_dict() == trace(model, example(x)).as_dict()


@pytest.mark.parametrize("examples", [[], [torch.randn(2, 3)], [(torch.randn(2, 3),)]])
def test_examples_of_another_form_are_an_error(examples: list[object]) -> None:
    with pytest.raises(UsageError, match="example"):
        trace(nn.Linear(3, 2), examples)  # type: ignore[arg-type]


def test_a_lazy_parameter_without_a_shape_is_an_error() -> None:
    with pytest.raises(UsageError, match="run the lazy model once"):
        trace(nn.LazyLinear(3), example(torch.randn(2, 3)))


def test_a_second_rule_for_an_operator_is_an_error() -> None:
    with pytest.raises(UsageError, match="has a rule already"):

        @rule(torch.ops.aten.mm)
        def again(op: Operation) -> None: ...


def test_a_rule_that_does_not_fit_is_reported_as_such() -> None:
    library = torch.library.Library("esper_misfit", "DEF")
    library.define("twist(Tensor x) -> Tensor")
    library.impl("twist", lambda x: x.flip(-1), "CPU")

    @rule(torch.ops.esper_misfit.twist)
    def twist(op: Operation) -> None:
        op.arg("dim")

    class Twisted(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ops.esper_misfit.twist(super().forward(x))

    with pytest.raises(EsperError, match=r"the rule of esper_misfit\.twist\.default does not fit"):
        trace(Twisted(3, 2), example(torch.randn(4, 3)))
    library._destroy()


def test_a_rule_of_ones_own_teaches_the_tracer_an_operator() -> None:
    library = torch.library.Library("esper_taught", "DEF")
    library.define("twist(Tensor x) -> Tensor")
    library.impl("twist", lambda x: x.flip(0), "CPU")

    @rule(torch.ops.esper_taught.twist, moves=True)
    def twist(op: Operation) -> None:
        op.move(lambda shadow: shadow)

    class Twisted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.leave(torch.ops.esper_taught.twist(self.enter(x)))

    group = trace(Twisted(), example(torch.randn(4, 3))).group_of("enter")
    library._destroy()
    assert group.free
    assert group.member("leave.weight", 1) is not None


class Remembering(nn.Module):
    """Computes a table from a parameter once, in a dictionary or as an attribute."""

    table: Tensor | None = None

    def __init__(self, in_dictionary: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))
        self.before, self.after = nn.Linear(3, 6), nn.Linear(6, 2)
        self.in_dictionary, self.tables = in_dictionary, {}

    def looked_up(self) -> Tensor:
        if self.in_dictionary:
            return self.tables.setdefault("cpu", self.scale.exp())
        if self.table is None:
            self.table = self.scale.exp()
        return self.table

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.before(x) * self.looked_up())


@pytest.mark.parametrize("in_dictionary", [True, False])
def test_a_second_trace_follows_what_the_first_made_the_model_remember(in_dictionary: bool) -> None:
    model = Remembering(in_dictionary)
    first, second = (trace(model, example(torch.randn(4, 3))).group_of("before") for _ in range(2))
    assert first == second


class Counting(TorchDispatchMode):
    """A mode of the model's own."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func.overloadpacket))
        return func(*args, **(kwargs or {}))


class UnderItsOwnMode(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mode = Counting()
        self.linear = nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with self.mode:
            result: torch.Tensor = self.linear(x)
        return result


def test_a_mode_of_the_models_own_sees_what_it_would_see_without_a_trace() -> None:
    model = UnderItsOwnMode()
    with torch.no_grad():
        model(torch.randn(2, 3))
    alone = list(model.mode.seen)
    trace(model, [((torch.randn(2, 3),), {})])
    assert model.mode.seen[len(alone) :] == alone
