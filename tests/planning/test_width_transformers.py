"""Widths of transformers and recurrent nets: heads, key-value groups, gates, streams; both ways, and back again."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import frozen

from esper_es import Engine, fingerprint

from .transformer_models import (
    BERT,
    ENCODER,
    FROZEN,
    GEMMA,
    GPT2,
    LLAMA,
    LSTM,
    MAMBA,
    MAMBA2,
    PHI3,
    POSITIONED,
    PVT,
    PVT_V2,
    SEGFORMER,
    SWIN,
    T5,
    VIT,
    XLNET,
    Transformer,
    trained,
)


@frozen
class Width:
    """A width to change, in units, and how far outputs may move when it grows; None where a norm forbids more."""

    model: Transformer
    layer: str
    old: int
    new: int
    bound: float | None = 0.0
    dimension: str | int = "out"

    def __str__(self) -> str:
        return f"{self.model.name}-{self.layer}-{self.old}-{self.new}"


STREAM = 4e-7
WIDTHS = [
    Width(GPT2, "transformer.h.0.mlp.c_fc", 128, 130),
    Width(GPT2, "transformer.h.1.attn.c_attn", 4, 5),
    Width(GPT2, "transformer.wte", 32, 36, STREAM, 1),
    Width(BERT, "bert.encoder.layer.0.attention.self.query", 4, 6),
    Width(BERT, "bert.encoder.layer.1.intermediate.dense", 48, 50),
    Width(BERT, "bert.embeddings.word_embeddings", 32, 33, None),
    Width(LLAMA, "model.layers.0.self_attn.k_proj", 2, 3),
    Width(LLAMA, "model.layers.1.mlp.gate_proj", 40, 41),
    Width(LLAMA, "model.embed_tokens", 32, 34, STREAM),
    Width(T5, "encoder.block.0.layer.0.SelfAttention.q", 4, 5),
    Width(T5, "decoder.block.1.layer.1.EncDecAttention.q", 4, 5),
    Width(T5, "shared", 32, 33, STREAM, 1),
    Width(VIT, "vit.layers.0.attention.q_proj", 4, 5),
    Width(VIT, "vit.embeddings.cls_token", 32, 33, STREAM, 2),
    Width(SWIN, "swin.encoder.layers.0.blocks.1.attention.q_proj", 2, 3),
    Width(SWIN, "swin.encoder.layers.0.downsample.reduction", 32, 33, STREAM),
    Width(LSTM, "lstm.weight_ih_l0", 6, 8, STREAM, 0),
    Width(ENCODER, "enter", 16, 19, STREAM),
    Width(ENCODER, "encoder.layers.1.self_attn.in_proj_weight", 4, 5, STREAM, 0),
    Width(ENCODER, "encoder.layers.0.linear1", 24, 25, STREAM),
    Width(FROZEN, "enter", 6, 8),
    Width(POSITIONED, "enter", 6, 8, STREAM),
    Width(MAMBA, "backbone.layers.0.mixer.A_log", 6, 7, STREAM, 1),
    Width(MAMBA2, "backbone.layers.0.mixer.dt_bias", 3, 4, None),
    Width(PHI3, "model.layers.0.self_attn.qkv_proj", 2, 3),
    Width(PVT, "pvt.encoder.block.0.0.attention.output.dense", 12, 13, 1e-6),
    Width(PVT_V2, "pvt_v2.encoder.layers.0.patch_embedding.proj", 12, 16, None),
    Width(SEGFORMER, "segformer.stages.0.blocks.0.attention.o_proj", 12, 13, 1e-5),
    Width(GEMMA, "model.layers.0.self_attn.q_proj", 4, 5),
    Width(XLNET, "transformer.layer.0.rel_attn.q", 8, 9, 1e-5, 2),
]


def changed(engine: Engine, width: Width, new: int) -> Any:
    run = width.model.attached(engine)
    trained(run)
    before = run.capture()
    result = run.surgeon.modify_layer_width(
        layer_name=width.layer, new_width=new, unit="units", dimension=width.dimension
    )
    assert result.success, result.error
    return run, before, result


@pytest.mark.parametrize("width", WIDTHS, ids=str)
def test_a_wider_transformer_computes_what_it_did(width: Width, engine: Engine) -> None:
    _, _, result = changed(engine, width, width.new)
    if width.bound is not None:
        assert result.details["output_difference"] <= width.bound


@pytest.mark.parametrize("ways", [1, -1], ids=["wider", "narrower"])
@pytest.mark.parametrize("width", WIDTHS, ids=str)
def test_a_changed_width_trains_replays_and_rolls_back_exactly(
    width: Width, ways: int, engine: Engine
) -> None:
    step = width.new - width.old
    run = width.model.attached(engine)
    trained(run)
    run.capture()
    old, version = run.fingerprint, run.version
    result = run.surgeon.modify_layer_width(
        layer_name=width.layer, new_width=width.old + ways * step, unit="units", dimension=width.dimension
    )
    assert result.success, result.error
    trained(run)
    run.capture()
    replayed = engine.replay(width.model.name)
    assert (replayed.esper_replay.exact, fingerprint(replayed)) == (True, run.fingerprint)
    run.rollback(to_version=version)
    assert run.fingerprint == old


def test_heads_are_counted_where_the_module_counts_them(engine: Engine) -> None:
    run, _, result = changed(engine, WIDTHS[1], 5)
    attention = run.model.get_submodule("transformer.h.1.attn")
    assert (attention.num_heads, attention.split_size, attention.embed_dim) == (5, 40, 32)
    assert result.details["attributes"]["transformer.h.1.attn.split_size"] == 40


def test_what_coincides_with_a_count_by_chance_stays(engine: Engine) -> None:
    run, _, _ = changed(engine, WIDTHS[14], 3)
    block = run.model.get_submodule("swin.encoder.layers.0.blocks.1")
    assert (block.shift_size, block.attention.num_attention_heads) == (2, 3)
    attention = WIDTHS[6].model.attached(engine)
    attention.surgeon.modify_layer_width(layer_name=WIDTHS[6].layer, new_width=3, unit="units")
    assert attention.model.get_submodule("model.layers.0.self_attn").num_key_value_groups == 2


def test_cross_attention_heads_that_share_a_bias_change_in_all_layers(engine: Engine) -> None:
    run, _, _ = changed(engine, WIDTHS[10], 5)
    heads = [run.model.get_submodule(f"decoder.block.{n}.layer.1.EncDecAttention").n_heads for n in range(2)]
    assert heads == [5, 5]


def test_one_key_value_group_may_be_all_that_stays(engine: Engine) -> None:
    run, _, result = changed(engine, WIDTHS[6], 1)
    assert len(result.details["kept_units"]) == 1
    assert run.model.get_submodule("model.layers.0.self_attn.k_proj").out_features == 8


def test_recurrent_units_take_their_gates_along(engine: Engine) -> None:
    run, _, _ = changed(engine, WIDTHS[16], 8)
    lstm = run.model.get_submodule("lstm")
    assert (lstm.hidden_size, tuple(lstm.weight_hh_l1_reverse.shape)) == (8, (32, 8))
    assert run.model.get_submodule("leave").in_features == 16


def test_packed_heads_that_a_shared_configuration_cuts_change_in_all_layers(engine: Engine) -> None:
    run = PHI3.attached(engine)
    assert run.surgeon.modify_layer_width(
        layer_name="model.layers.0.self_attn.qkv_proj", new_width=3, unit="units"
    ).success
    shapes = [tuple(layer.self_attn.qkv_proj.weight.shape) for layer in run.model.model.layers]  # type: ignore[union-attr]
    assert shapes == [(96, 32), (96, 32)]


def test_heads_whose_number_follows_the_stream_are_refused_alone_with_what_to_change_instead(
    engine: Engine,
) -> None:
    result = PVT_V2.attached(engine).surgeon.modify_layer_width(
        layer_name="pvt_v2.encoder.layers.0.blocks.0.attention.query", new_width=16
    )
    assert (result.success, result.check) == (False, "attention_heads")
