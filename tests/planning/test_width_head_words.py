"""What is said of heads: their true size, or nothing of it, in explanations and refusals alike."""

from __future__ import annotations

import pytest

from esper_es import Engine

from .head_models import DEEPSEEK, FUNNEL, GROUPED_FILTERS, LLAMA4, LONGFORMER, STABLELM
from .test_width_head_size import refusal
from .transformer_models import LLAMA, MAMBA, MAMBA2, Transformer

MAMBA_IN, MAMBA_OUT = "backbone.layers.0.mixer.in_proj", "backbone.layers.0.mixer.out_proj"
DEEPSEEK_Q = "model.layers.0.self_attn.q_b_proj"


@pytest.mark.parametrize(
    ("model", "layer", "size"),
    [
        (LLAMA4, "model.layers.0.self_attn.q_proj", 8),
        (FUNNEL, "encoder.blocks.0.0.attention.q_head", 8),
        (FUNNEL, "encoder.blocks.0.0.attention.v_head", 8),
        (LONGFORMER, "encoder.layer.0.attention.self.query", 8),
        (DEEPSEEK, "model.layers.0.self_attn.o_proj", 6),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_size_that_is_told_is_that_of_a_head(
    model: Transformer, layer: str, size: int, engine: Engine
) -> None:
    dimension = "in" if layer.endswith("o_proj") else "out"
    assert model.attached(engine).surgeon.explain(layer, dimension=dimension).head_size == size


@pytest.mark.parametrize(
    ("model", "layer"),
    [
        (DEEPSEEK, DEEPSEEK_Q),
        (MAMBA, MAMBA_IN),
        (MAMBA2, MAMBA_IN),
        (MAMBA2, MAMBA_OUT),
        (GROUPED_FILTERS, "grouped"),
    ],
    ids=["deepseek", "mamba", "mamba2", "mamba2-out", "grouped"],
)
def test_no_size_is_told_where_nothing_shows_one(model: Transformer, layer: str, engine: Engine) -> None:
    assert model.attached(engine).surgeon.explain(layer).head_size == 0


@pytest.mark.parametrize("model", [MAMBA, MAMBA2, DEEPSEEK], ids=["mamba", "mamba2", "deepseek"])
@pytest.mark.parametrize("size", [6, 7, 10])
def test_a_refusal_names_no_size_that_nothing_shows(model: Transformer, size: int, engine: Engine) -> None:
    layer = DEEPSEEK_Q if model is DEEPSEEK else MAMBA_IN
    assert refusal(model.attached(engine), layer, size).startswith("nothing shows that")


def test_a_refusal_says_what_is_out_of_sight(engine: Engine) -> None:
    assert "meets a tensor without channels in aten.bmm" in refusal(DEEPSEEK.attached(engine), DEEPSEEK_Q, 12)


def test_channels_that_are_pinned_are_refused_with_the_pin(engine: Engine) -> None:
    error = refusal(LONGFORMER.attached(engine), "encoder.layer.0.attention.self.query", 6)
    assert "restrided by aten.as_strided" in error


def test_values_change_beside_queries_whose_keys_are_out_of_sight(engine: Engine) -> None:
    run = DEEPSEEK.attached(engine)
    result = run.surgeon.modify_layer_width(
        layer_name="model.layers.0.self_attn.o_proj", new_width=4, unit="head_size", dimension="in"
    )
    assert result.details["head_size"] == (6, 4)


@pytest.mark.parametrize("layer", ["q_proj", "v_proj"])
def test_a_refusal_says_what_takes_heads_one_by_one(layer: str, engine: Engine) -> None:
    error = refusal(STABLELM.attached(engine), f"model.layers.0.self_attn.{layer}", 10)
    assert "as aten.split in model.layers.0.self_attn.q_layernorm cuts them into equal parts" in error


@pytest.mark.parametrize("size", [8, 9])
def test_values_may_get_the_size_of_the_keys_that_they_are_made_with(size: int, engine: Engine) -> None:
    run = DEEPSEEK.attached(engine)
    for width in (size, 7):
        result = run.surgeon.modify_layer_width(
            layer_name="model.layers.0.self_attn.o_proj", new_width=width, unit="head_size", dimension="in"
        )
        assert result.success, result.error


def test_what_turns_in_pairs_is_named_with_the_nearest_sizes(engine: Engine) -> None:
    error = refusal(LLAMA.attached(engine), "model.layers.0.self_attn.q_proj", 7)
    assert "what comes nearest is 6" in error
