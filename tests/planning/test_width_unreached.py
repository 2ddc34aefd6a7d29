"""Widths next to parameters that no example reached: refused where code that did not run might feed them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper_es import Engine, Run, blueprint

from .transformer_models import transformers


class Block(nn.Module):
    """Attention without the rest; takes a bias for its scores, one number a head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        scores = q @ k.transpose(-1, -2)
        if bias is not None:
            scores = scores + bias[:, None, None]
        mixed: Tensor = self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return x + mixed


class Masked(nn.Module):
    """What is masked is replaced by a learnt token, as wide as the stream and as all heads."""

    def __init__(self, biased: bool = False) -> None:
        super().__init__()
        self.enter = nn.Linear(5, 12)
        self.token = nn.Parameter(torch.randn(1, 1, 12))
        self.bias = nn.Parameter(torch.randn(3)) if biased else None
        self.block = Block(12, 3)
        self.leave = nn.Linear(12, 4)

    def forward(self, x: Tensor, masked: Tensor | None = None, biased: bool = False) -> Tensor:
        x = self.enter(x)
        if masked is not None:
            x = torch.where(masked[..., None], self.token, x)
        left: Tensor = self.leave(self.block(x, self.bias if biased else None))
        return left


class Auxiliary(nn.Module):
    """A second head reads the flattened maps of an early layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 7, 3, padding=1)
        self.leave = nn.Linear(7, 4)
        self.auxiliary = nn.Linear(6 * 16, 4)

    def forward(self, x: Tensor, early: bool = False) -> Tensor:
        x = self.first(x).relu()
        if early:
            told: Tensor = self.auxiliary(x.flatten(1))
            return told
        left: Tensor = self.leave(self.second(x).relu().mean((2, 3)))
        return left


class Keeper(nn.Module):
    """Keeps what its first layer said."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 7)

    def forward(self, x: Tensor) -> Tensor:
        self.kept = self.first(x)
        said: Tensor = self.second(self.kept.relu())
        return said


class Peeking(nn.Module):
    """Reads what another module kept."""

    def __init__(self) -> None:
        super().__init__()
        self.keeper, self.leave, self.peek = Keeper(), nn.Linear(7, 4), nn.Linear(6, 4)

    def forward(self, x: Tensor, peek: bool = False) -> Tensor:
        left: Tensor = self.leave(self.keeper(x))
        return left + self.peek(self.keeper.kept) if peek else left


class Biased(Block):
    """Has a bias for the channels of every head besides, which few calls add."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.norm = nn.LayerNorm(width)
        self.offset = nn.Parameter(torch.randn(heads, width // heads))

    def forward(self, x: Tensor, bias: Tensor | None = None, moved: bool = False) -> Tensor:
        normed: Tensor = self.norm(super().forward(x, bias))
        if moved:
            normed = normed + self.q(x).unflatten(-1, self.offset.shape).add(self.offset).flatten(2)
        return normed


class Deep(nn.Module):
    """A token joins the stream; blocks lie deeper inside, and the sounds before are narrow and long."""

    def __init__(self) -> None:
        super().__init__()
        self.listen, self.enter = nn.Conv1d(2, 4, 2), nn.Linear(4, 12)
        self.token = nn.Parameter(torch.randn(12))
        self.body = nn.Sequential(nn.Sequential(Biased(12, 3)), nn.Linear(12, 12))
        self.leave, self.last = nn.Linear(12, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor, masked: Tensor | None = None) -> Tensor:
        x = self.enter(self.listen(x).transpose(1, 2))
        if masked is not None:
            x = torch.where(masked[..., None], self.token, x)
        left: Tensor = self.last(self.leave(self.body(x)).relu())
        return left


class Telling(nn.Module):
    """What a part says is as wide as the token inside that part."""

    def __init__(self) -> None:
        super().__init__()
        self.deep, self.more, self.last = Deep(), nn.Linear(5, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor, masked: Tensor | None = None) -> Tensor:
        left: Tensor = self.last(self.more(self.deep(x, masked)).relu())
        return left


for kind in (Masked, Auxiliary, Peeking, Deep, Telling):
    blueprint(f"tests/unreached/{kind.__name__}")(kind)


def attached(engine: Engine, model: nn.Module, examples: Any, **arguments: bool) -> Run:
    name = type(model).__name__
    return engine.attach(model, name, examples, blueprint=f"tests/unreached/{name}", blueprint_args=arguments)


def sequences(**more: Any) -> Mapping[str, Any]:
    return {"x": torch.randn(2, 4, 5), **more}


def mask() -> Tensor:
    return torch.tensor([[True, False, True, False]] * 2)


@pytest.fixture
def dino(engine: Engine) -> Run:
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, mlp_ratio=1, image_size=16, patch_size=8
    )
    return engine.attach(
        transformers.Dinov2Model(config), "dino", {"pixel_values": torch.randn(2, 3, 16, 16)}
    )


@pytest.mark.parametrize(
    ("layer", "width"), [("attention.q_proj", 40), ("attention.q_proj", 24), ("mlp.fc1", 40), ("mlp.fc1", 24)]
)
def test_what_a_block_does_inside_changes_beside_a_mask_token_of_the_same_size(
    layer: str, width: int, dino: Run
) -> None:
    result = dino.surgeon.modify_layer_width(layer_name=f"encoder.layer.0.{layer}", new_width=width)
    assert result.success, result.error


def test_heads_are_refused_where_a_token_as_wide_as_all_of_them_may_be_handed_to_them(engine: Engine) -> None:
    run = attached(engine, Masked(), sequences())
    result = run.surgeon.modify_layer_width(layer_name="block.q", new_width=16)
    assert result.check == "not_executed"
    assert "never reach token, which might be fed by 'block.q' if the module that owns it hands it on to" in (
        result.error or ""
    )


class Gated(nn.Module):
    """A gate for the inside of a part, in one number for each channel or in rows of them."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 32), nn.Linear(32, 8)
        self.inner = nn.Sequential(nn.Linear(8, 32), nn.ReLU())
        self.last = nn.Linear(32, 4)
        self.gate = nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor, gated: bool = False) -> Tensor:
        x = self.inner(self.second(self.first(x).relu()))
        left: Tensor = self.last(x * self.gate.flatten() if gated else x)
        return left


@blueprint("tests/unreached/gated")
def gated(shape: list[int]) -> nn.Module:
    return Gated(*shape)


@pytest.mark.parametrize("shape", [[32], [4, 8]])
def test_the_inside_of_a_part_is_refused_where_its_owner_may_hand_it_a_gate(
    shape: list[int], engine: Engine
) -> None:
    run = engine.attach(
        Gated(*shape),
        "model",
        torch.randn(3, 5),
        blueprint="tests/unreached/gated",
        blueprint_args={"shape": shape},
    )
    result = run.surgeon.modify_layer_width(layer_name="inner.0", new_width=40)
    assert result.check == "not_executed"


def test_a_stream_that_an_unreached_token_may_join_is_refused_with_where_and_what_to_do(
    engine: Engine,
) -> None:
    run = attached(engine, Masked(), sequences())
    result = run.surgeon.modify_layer_width(layer_name="enter", new_width=14)
    assert result.check == "not_executed"
    assert "never reach token, which might be fed by 'enter' in the code of the model itself" in (
        result.error or ""
    )
    assert "run.add_examples(b)" in (result.error or "")


def sounds(**more: Any) -> Mapping[str, Any]:
    return {"x": torch.randn(2, 2, 5), **more}


@pytest.mark.parametrize(("layer", "width"), [("body.0.0.v", 16), ("listen", 3)])
def test_a_token_of_the_stream_holds_up_nothing_else_that_could_be_brought_to_its_size(
    layer: str, width: int, engine: Engine
) -> None:
    run = attached(engine, Deep(), sounds())
    result = run.surgeon.modify_layer_width(layer_name=layer, new_width=width)
    assert "token" not in (result.error or "")


def test_a_token_inside_a_part_holds_up_nothing_that_lies_beside_the_part(engine: Engine) -> None:
    run = attached(engine, Telling(), sounds())
    result = run.surgeon.modify_layer_width(layer_name="more", new_width=14)
    assert result.success, result.error


def test_a_bias_for_all_heads_is_not_said_to_join_the_stream_they_are_as_wide_as(engine: Engine) -> None:
    run = attached(engine, Deep(), sounds())
    result = run.surgeon.modify_layer_width(layer_name="enter", new_width=14)
    assert "never reach token, which" in (result.error or "")


def test_with_an_example_for_the_token_it_changes_with_the_stream(engine: Engine) -> None:
    run = attached(engine, Masked(), [sequences(), sequences(masked=mask())])
    assert run.surgeon.modify_layer_width(layer_name="enter", new_width=14).success
    assert run.model.token.shape == (1, 1, 14)


def test_heads_are_refused_where_an_unreached_bias_may_be_handed_to_them(engine: Engine) -> None:
    run = attached(engine, Masked(biased=True), sequences(), biased=True)
    result = run.surgeon.modify_layer_width(layer_name="block.q", new_width=16)
    assert result.check == "not_executed"
    assert "bias" in (result.error or "")
    assert "hands it on" in (result.error or "")


def test_a_layer_that_an_unreached_head_may_read_flattened_is_refused(engine: Engine) -> None:
    run = attached(engine, Auxiliary(), {"x": torch.randn(2, 3, 4, 4)})
    result = run.surgeon.modify_layer_width(layer_name="first", new_width=8)
    assert result.check == "not_executed"
    assert "never reach auxiliary.weight" in (result.error or "")


def test_a_layer_whose_output_fits_no_unreached_head_changes(engine: Engine) -> None:
    run = attached(engine, Auxiliary(), {"x": torch.randn(2, 3, 4, 4)})
    assert run.surgeon.modify_layer_width(layer_name="second", new_width=8).success


def test_what_a_module_keeps_may_be_read_by_code_that_did_not_run(engine: Engine) -> None:
    run = attached(engine, Peeking(), {"x": torch.randn(2, 5)})
    result = run.surgeon.modify_layer_width(layer_name="keeper.first", new_width=8)
    assert result.check == "not_executed"
    assert "never reach peek.weight" in (result.error or "")
