"""A skip joins an output of the forward pass that it is in: not another thread's, nor one of an earlier pass."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from esper_es import Engine, Run, blueprint
from esper_es.projections.live.bus import SkipOrderError


class Autoencoder(nn.Module):
    """Two halves that may be called by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(6, 64), nn.Tanh(), *(nn.Linear(64, 64) for _ in range(4)))
        self.dec = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 6))

    def decode(self, z: Tensor) -> Tensor:
        decoded: Tensor = self.dec(z)
        return decoded

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.enc(x))


blueprint("tests/skips-and-passes")(Autoencoder)


@pytest.fixture
def skipping(engine: Engine) -> Run:
    run = engine.attach(Autoencoder(), "model", (torch.randn(5, 6),), blueprint="tests/skips-and-passes")
    assert run.surgeon.add_skip_connection(from_layer="enc.0", to_layer="dec.0").success
    return run


@pytest.mark.parametrize("exported", [False, True])
def test_threads_do_not_join_one_anothers_outputs(exported: bool, skipping: Run) -> None:
    model = (skipping.export() if exported else skipping.model).eval()
    batches = [torch.randn(32, 6) for _ in range(2)]

    @torch.no_grad()
    def outputs(x: Tensor) -> list[Tensor]:
        return [model(x) for _ in range(200)]

    expected = [outputs(x)[0] for x in batches]
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(outputs, batches))
    assert all(torch.allclose(y, e) for ys, e in zip(found, expected, strict=True) for y in ys)


def test_a_part_called_by_itself_joins_nothing_of_an_earlier_pass(skipping: Run) -> None:
    skipping.model(torch.randn(5, 6))
    with pytest.raises(SkipOrderError, match=r"'enc\.0' did not run before 'dec\.0' since the model"):
        skipping.model.decode(torch.randn(5, 64))


def test_a_part_called_by_itself_in_evaluation_joins_nothing_of_an_earlier_pass(skipping: Run) -> None:
    with torch.no_grad():
        skipping.model(torch.randn(5, 6))
        with pytest.raises(SkipOrderError, match="did not run"):
            skipping.model.decode(torch.randn(5, 64))


def test_parts_that_are_called_in_order_join_as_in_the_whole_model(skipping: Run) -> None:
    x = torch.randn(5, 6)
    expected = skipping.model(x)
    assert torch.equal(skipping.model.decode(skipping.model.enc(x)), expected)


def test_a_pass_that_failed_leaves_the_next_one_alone(skipping: Run) -> None:
    x = torch.randn(5, 6)
    expected = skipping.model(x)
    with pytest.raises(RuntimeError):
        skipping.model(torch.randn(5, 7))
    assert torch.equal(skipping.model(x), expected)


@pytest.mark.parametrize("exported", [False, True])
def test_a_part_called_by_itself_joins_nothing_of_a_pass_that_failed(exported: bool, skipping: Run) -> None:
    model = skipping.export() if exported else skipping.model

    def failing(*_: object) -> None:
        raise RuntimeError("half-way")

    hook = model.enc[-1].register_forward_hook(failing)
    with pytest.raises(RuntimeError, match="half-way"):
        model(torch.randn(5, 6))
    hook.remove()
    with pytest.raises(SkipOrderError, match=r"'enc\.0' did not run before 'dec\.0'"):
        model.decode(torch.randn(5, 64))


def test_an_evaluated_model_keeps_no_outputs(skipping: Run) -> None:
    with torch.no_grad():
        skipping.model(torch.randn(5, 6))
    assert skipping.model._esper_bus.is_empty


class CallsItself(nn.Module):
    """Looks at what it makes of something else first, as guidance without a condition does."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.inner, self.leave = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor, guided: bool = False) -> Tensor:
        hidden = torch.tanh(self.enter(x))
        free = self(torch.zeros_like(x)) if guided else 0.0
        made: Tensor = self.leave(torch.tanh(self.inner(hidden))) + free
        return made


@pytest.mark.parametrize("exported", [False, True])
def test_a_model_that_calls_itself_joins_in_each_pass_its_own(exported: bool, engine: Engine) -> None:
    blueprint("tests/calls-itself")(CallsItself)
    run = engine.attach(CallsItself(), "model", (torch.randn(5, 6),), blueprint="tests/calls-itself")
    assert run.surgeon.add_skip_connection(from_layer="enter", to_layer="inner").success
    model = run.export() if exported else run.model
    x = torch.randn(5, 6)
    torch.testing.assert_close(model(x, guided=True), model(x) + model(torch.zeros_like(x)))
