"""Streams that plain code takes to be as wide as all heads together: they change with the size of heads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_es import Engine, Run, blueprint, fingerprint

from .transformer_models import Transformer, trained

HEADS = 4


class Block(nn.Module):
    """A block as vision transformers have it, with the size of heads taken from what it is fed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.qkv, self.project = (
            nn.LayerNorm(width),
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 20), nn.GELU(), nn.Linear(20, width))

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, n, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4)
        weights = (qkv[0] @ qkv[1].transpose(-2, -1) * (c // HEADS) ** -0.5).softmax(-1)
        x = x + self.project((weights @ qkv[2]).transpose(1, 2).reshape(b, n, c))
        made: Tensor = x + self.mlp(x)
        return made


class Vision(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(5, 24)
        self.blocks = nn.Sequential(Block(24), Block(24))
        self.last, self.leave = nn.LayerNorm(24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        left: Tensor = self.leave(self.last(self.blocks(self.enter(x))))
        return left


class OwnAttention(nn.MultiheadAttention):
    """Attention that returns no weights; its heads must be as wide as the stream."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)[0]


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.attention = nn.Linear(5, 24), OwnAttention(24, HEADS, batch_first=True)
        self.leave = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.enter(x))
        left: Tensor = self.leave(x + self.attention(x, x, x))
        return left


class Rotary(nn.Module):
    """An attention that cuts its heads from the width of what it is fed, and turns them by its own frequencies."""

    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.qkv = nn.Linear(5, 24), nn.Linear(24, 72)
        self.project, self.leave = nn.Linear(24, 24), nn.Linear(24, 3)
        self.register_buffer("frequencies", torch.tensor([1.0, 0.1, 0.01]))

    def turn(self, x: Tensor) -> Tensor:
        angles = torch.arange(x.shape[2])[:, None] * self.frequencies.repeat(2)
        left, right = x.chunk(2, -1)
        return x * angles.cos() + torch.cat([-right, left], -1) * angles.sin()

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.enter(x))
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(self.turn(q), self.turn(k), v)
        left: Tensor = self.leave(x + self.project(mixed.transpose(1, 2).reshape(b, n, c)))
        return left


def model(name: str, build: Any) -> Transformer:
    blueprint(f"tests/width/{name}")(build)
    return Transformer(name, build, lambda: {"x": torch.randn(2, 6, 5)})


VISION, WRAPPED = model("vision", Vision), model("wrapped", Wrapped)
ROTARY = model("rotary", Rotary)
MODELS = pytest.mark.parametrize("made", [VISION, WRAPPED], ids=["vision", "wrapped"])


def attached(engine: Engine, made: Transformer) -> Run:
    run = made.attached(engine)
    trained(run)
    return run


@MODELS
def test_a_stream_grows_by_the_size_of_its_heads(made: Transformer, engine: Engine) -> None:
    result = attached(engine, made).surgeon.modify_layer_width(layer_name="enter", new_width=28)
    assert result.success, result.error
    assert result.details["head_size"] == (6, 7)
    assert result.details["output_difference"] <= 1e-6


@MODELS
def test_heads_grow_with_the_stream_that_they_are_cut_from(made: Transformer, engine: Engine) -> None:
    run = attached(engine, made)
    layer = "blocks.0.qkv" if made is VISION else "attention.in_proj_weight"
    result = run.surgeon.modify_layer_width(layer_name=layer, dimension=0, new_width=8, unit="head_size")
    assert result.success, result.error
    assert run.model.enter.out_features == 32
    assert result.details["output_difference"] <= 1e-6


@pytest.mark.parametrize("width", [20, 28], ids=["narrower", "wider"])
@MODELS
def test_both_ways_train_replay_and_roll_back_exactly(made: Transformer, width: int, engine: Engine) -> None:
    run = attached(engine, made)
    run.capture()
    old, version = run.fingerprint, run.version
    assert run.surgeon.modify_layer_width(layer_name="enter", new_width=width).success
    trained(run, 20)
    run.capture()
    replayed = engine.replay(made.name)
    assert (replayed.esper_replay.exact, fingerprint(replayed)) == (True, run.fingerprint)
    run.rollback(to_version=version)
    assert run.fingerprint == old


def test_queries_make_up_for_the_scale_in_narrower_heads_too(engine: Engine) -> None:
    run = attached(engine, WRAPPED)
    result = run.surgeon.modify_layer_width(layer_name="enter", new_width=20)
    assert "scores rescaled" in result.details["method"]


def test_a_width_that_is_neither_is_refused_with_those_that_are(engine: Engine) -> None:
    result = attached(engine, WRAPPED).surgeon.modify_layer_width(layer_name="enter", new_width=25)
    assert "all multiples of 4 do" in (result.error or "")


def test_whole_heads_come_where_they_can(engine: Engine) -> None:
    run = attached(engine, WRAPPED)
    assert run.surgeon.modify_layer_width(layer_name="enter", new_width=30).success
    assert (run.model.attention.num_heads, run.model.attention.head_dim) == (5, 6)


def test_heads_that_could_not_follow_a_stream_say_why_beside_it(engine: Engine) -> None:
    result = attached(engine, ROTARY).surgeon.modify_layer_width(layer_name="enter", new_width=28)
    assert "with heads of another size" in (result.error or "")
    assert "turned 2 at a time" in (result.error or "")
