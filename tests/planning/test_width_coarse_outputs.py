"""Widening models whose outputs hide a change: masked with infinities, or in half precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from esper_es import Engine, blueprint


class Masked(nn.Module):
    """A stream that a norm and a layer of its own read; the outputs may be masked, and have others beside them."""

    def __init__(self, outputs: str, dtype: str) -> None:
        super().__init__()
        self.outputs = outputs
        self.stem, self.norm = nn.Linear(6, 8), nn.LayerNorm(8)
        self.normed, self.direct = nn.Linear(8, 8), nn.Linear(8, 8)
        self.out, self.value = nn.Linear(8, 5), nn.Linear(8, 1)
        self.to(getattr(torch, dtype))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.stem(x)
        h = torch.tanh(self.normed(self.norm(x)) + self.direct(x))
        y = self.out(h) + self.value(h)
        if self.outputs != "finite":
            y = y.masked_fill(torch.arange(5) == 4, float("-inf"))
        return (self.value(h), y) if self.outputs == "two" else y


blueprint("tests/coarse-outputs")(Masked)


def moved(before: Tensor, after: Tensor) -> float:
    known = before.isfinite()
    return float((after - before)[known].abs().max() / before[known].abs().max())


@pytest.mark.parametrize("outputs", ["finite", "masked", "two"])
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-6), ("float16", 4e-3), ("bfloat16", 3e-2)])
def test_the_filling_that_keeps_the_function_is_found(
    outputs: str, dtype: str, bound: float, engine: Engine
) -> None:
    torch.manual_seed(0)
    arguments = {"outputs": outputs, "dtype": dtype}
    model, x = Masked(**arguments).eval(), torch.randn(16, 6).to(getattr(torch, dtype))
    run = engine.attach(model, "model", (x,), blueprint="tests/coarse-outputs", blueprint_args=arguments)

    def logits() -> Tensor:
        with torch.no_grad():
            y = model(x)
        return y[1] if isinstance(y, tuple) else y

    before = logits()
    assert run.surgeon.modify_layer_width(layer_name="stem", new_width=12).success
    assert moved(before, logits()) <= bound


class Unheaded(nn.Module):
    """Attention without heads in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 5)
        self.bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        return self.out((self.q(x) @ self.k(x).mT / 3).softmax(-1) @ self.v(x))


blueprint("tests/unheaded")(Unheaded)


@pytest.mark.parametrize("seed", range(3))
def test_one_side_of_a_product_stays_silent_in_half_precision_too(seed: int, engine: Engine) -> None:
    torch.manual_seed(seed)
    model, x = Unheaded(), 0.5 * torch.randn(4, 7, 6).bfloat16()
    run = engine.attach(model, "model", (x,), blueprint="tests/unheaded")
    assert run.surgeon.modify_layer_width(layer_name="q", new_width=16).success
    assert not (model.q.weight[8:].any() and model.k.weight[8:].any())
