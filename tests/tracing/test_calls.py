from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from esper_es.domain.errors import UsageError
from esper_es.tracing import trace

from .zoo import Branching, ResNet, SharedTwice, example, image


def test_calls_are_in_the_order_in_which_they_started() -> None:
    calls = trace(SharedTwice(), example(torch.randn(4, 3))).calls
    assert [(c.path, c.kind) for c in calls] == [
        ("", "SharedTwice"),
        ("enter", "Linear"),
        ("shared", "Linear"),
        ("shared", "Linear"),
        ("leave", "Linear"),
    ]


def test_calls_know_their_shapes() -> None:
    call = next(c for c in trace(ResNet(), example(image())).calls if c.path == "blocks.2")
    assert (call.inputs, call.outputs) == (((2, 6, 6, 6),), ((2, 8, 3, 3),))


def test_keyword_tensors_count_as_inputs() -> None:
    class Keyword(nn.Module):
        def forward(self, x: Tensor, *, scale: Tensor) -> Tensor:
            return x * scale

    call = trace(Keyword(), [((torch.randn(2, 3),), {"scale": torch.randn(3)})]).calls[0]
    assert call.inputs == ((2, 3), (3,))


def test_calls_describe_the_structure_of_what_they_return() -> None:
    class Nested(nn.Module):
        def forward(self, x: Tensor) -> dict[str, object]:
            return {"logits": x * 1, "rest": (None, [x * 2])}

    call = trace(Nested(), example(torch.randn(2, 3))).calls[0]
    assert call.structure == "dict{logits: Tensor, rest: tuple[None, list[Tensor]]}"
    assert call.outputs == ((2, 3), (2, 3))


def test_calls_nest_as_the_modules_called_each_other() -> None:
    calls = trace(ResNet(), example(image())).calls
    for call in calls[1:]:
        parent = calls[call.parent]  # type: ignore[index]
        assert parent.started < call.started < call.ended < parent.ended
        assert call.path.startswith(parent.path)


def test_every_example_has_its_own_calls() -> None:
    calls = trace(nn.Linear(3, 2), [*example(torch.randn(4, 3)), *example(torch.randn(5, 3))]).calls
    assert [(c.example, c.inputs) for c in calls] == [(0, ((4, 3),)), (1, ((5, 3),))]


def test_a_module_that_raises_and_is_caught_does_not_upset_the_nesting() -> None:
    class Fragile(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ArithmeticError

    class Robust(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fragile, self.plain = Fragile(), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.fragile(x)
            except ArithmeticError:
                return self.plain(x)

    calls = trace(Robust(), example(torch.randn(4, 3))).calls
    assert [(c.path, c.parent) for c in calls] == [("", None), ("fragile", 0), ("plain", 0)]


def test_order_of_modules() -> None:
    order = trace(ResNet(), example(image())).call_order
    assert order.finishes_before("stem.0", "blocks.1")
    assert not order.finishes_before("blocks.1", "stem.0")
    assert not order.finishes_before("blocks", "blocks.1")


def test_a_module_called_twice_finishes_first_with_its_first_call() -> None:
    order = trace(SharedTwice(), example(torch.randn(4, 3))).call_order
    assert order.finishes_before("shared", "leave")
    assert not order.finishes_before("shared", "shared")


def test_containment() -> None:
    order = trace(ResNet(), example(image())).call_order
    assert order.contains("blocks.2", "blocks.2.downsample.0")
    assert not order.contains("blocks.2", "blocks.3")


def test_a_module_that_runs_inside_another_is_contained_wherever_it_is_registered() -> None:
    class Borrowing(nn.Module):
        def __init__(self, lent: nn.Module) -> None:
            super().__init__()
            self.lent = [lent]

        def forward(self, x: Tensor) -> Tensor:
            return self.lent[0](x)

    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)
            self.user = Borrowing(self.fc)

        def forward(self, x: Tensor) -> Tensor:
            return self.user(x)

    assert trace(Root(), example(torch.randn(4, 3))).call_order.contains("user", "fc")


def test_any_path_of_a_shared_module_answers_for_it() -> None:
    order = trace(SharedTwice(), example(torch.randn(4, 3))).call_order
    assert order.executed("alias")
    assert len(order.of("alias")) == 2


def test_a_module_that_did_not_run_was_not_executed() -> None:
    order = trace(Branching(), example(torch.ones(4, 3))).call_order
    assert order.executed("positive")
    assert not order.executed("negative")


def test_the_order_of_a_module_that_never_ran_is_an_error() -> None:
    order = trace(Branching(), example(torch.ones(4, 3))).call_order
    with pytest.raises(UsageError, match="'negative' was never executed"):
        order.finishes_before("enter", "negative")


def test_a_trace_is_json() -> None:
    told = json.loads(json.dumps(trace(Branching(), example(torch.ones(4, 3))).as_dict()))
    assert told["unexecuted_parameters"] == ["negative.weight", "negative.bias"]
    assert told["groups"][0]["members"][0]["positions"] == [0, 1, 2, 3, 4, 5]
    assert [call["path"] for call in told["calls"]] == ["", "enter", "positive"]


class Cutting(nn.Module):
    """Fails in the code of a module inside."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Cut()

    def forward(self, x: Tensor) -> Tensor:
        cut: Tensor = self.inner(x)
        return cut


class Cut(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), 2, 7)


def test_where_a_model_fails_is_named() -> None:
    with pytest.raises(UsageError, match=r"in 'inner' \(test_calls.py, line \d+\): shape"):
        trace(Cutting(), [((torch.randn(3, 5),), {})])
