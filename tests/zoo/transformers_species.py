"""Models of ``transformers``, from configurations, with random weights."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf
from torch import nn

from .species import Species, images, linear, tokens

ROOMS = {"vocab_size": 101, "use_cache": False}


def gpt2() -> nn.Module:
    """Packed projections in Conv1D layers; the output layer is tied to the token table."""
    return hf.GPT2LMHeadModel(
        hf.GPT2Config(n_positions=16, n_embd=24, n_layer=2, n_head=3, n_inner=40, **ROOMS)
    )


def llama() -> nn.Module:
    """Grouped queries under rotary positions: two query heads for each of three key and value heads."""
    return hf.LlamaForCausalLM(
        hf.LlamaConfig(
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=6,
            num_key_value_heads=3,
            **ROOMS,
        )
    )


def bert() -> nn.Module:
    return hf.BertForSequenceClassification(
        hf.BertConfig(
            vocab_size=101,
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=3,
            intermediate_size=40,
            max_position_embeddings=16,
            num_labels=5,
        )
    )


def t5() -> nn.Module:
    """Its relative position bias, shared by all layers, couples their heads."""
    return hf.T5ForConditionalGeneration(
        hf.T5Config(d_model=24, d_kv=7, d_ff=40, num_layers=2, num_heads=3, decoder_start_token_id=0, **ROOMS)
    )


def mixtral() -> nn.Module:
    """A mixture of three experts, of which each token takes two; torch's kernel for them wants widths that are
    multiples of 16 bytes."""
    return hf.MixtralForCausalLM(
        hf.MixtralConfig(
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=12,
            num_key_value_heads=6,
            num_local_experts=3,
            num_experts_per_tok=2,
            **ROOMS,
        )
    )


def vit() -> nn.Module:
    return hf.ViTForImageClassification(
        hf.ViTConfig(
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=3,
            intermediate_size=40,
            image_size=32,
            patch_size=8,
            num_labels=5,
        )
    )


def resnet() -> nn.Module:
    return hf.ResNetForImageClassification(
        hf.ResNetConfig(
            embedding_size=8, hidden_sizes=[12, 16], depths=[2, 1], layer_type="basic", num_labels=5
        )
    )


def gpt_neox() -> nn.Module:
    """Attention and MLP side by side; queries, keys and values packed head by head, half of each head rotated."""
    return hf.GPTNeoXForCausalLM(
        hf.GPTNeoXConfig(
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=3,
            intermediate_size=40,
            max_position_embeddings=16,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
            **ROOMS,
        )
    )


def deberta() -> nn.Module:
    """Disentangled attention: content meets gathered relative positions, whose table all layers share."""
    return hf.DebertaV2ForSequenceClassification(
        hf.DebertaV2Config(
            vocab_size=101,
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=3,
            intermediate_size=40,
            max_position_embeddings=16,
            relative_attention=True,
            position_buckets=4,
            max_relative_positions=16,
            pos_att_type=["p2c", "c2p"],
            norm_rel_ebd="layer_norm",
            share_att_key=True,
            position_biased_input=False,
            type_vocab_size=0,
            num_labels=5,
        )
    )


def mamba() -> nn.Module:
    """Selective state spaces: no weight reads a state, inputs and outputs meet in it."""
    return hf.MambaForCausalLM(
        hf.MambaConfig(hidden_size=24, state_size=6, time_step_rank=3, num_hidden_layers=2, **ROOMS)
    )


def whisper() -> nn.Module:
    """Convolutions over a spectrogram, an encoder, and a decoder with cross-attention."""
    return hf.WhisperForConditionalGeneration(
        hf.WhisperConfig(
            num_mel_bins=8,
            d_model=24,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=3,
            decoder_attention_heads=3,
            encoder_ffn_dim=40,
            decoder_ffn_dim=36,
            max_source_positions=10,
            max_target_positions=16,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
            **ROOMS,
        )
    )


def spectrogram() -> dict[str, Any]:
    return {"input_features": torch.randn(2, 8, 20), "decoder_input_ids": tokens()["input_ids"][:, :5]}


def both_sides() -> dict[str, Any]:
    return {**tokens(), "decoder_input_ids": tokens()["input_ids"][:, :5], "use_cache": False}


def pixels() -> dict[str, Any]:
    return {"pixel_values": images()[0]}


TRANSFORMERS = (
    Species(
        "GPT-2",
        gpt2,
        tokens,
        ("transformer.h.0.mlp", linear(24)),
        "transformer.h.1",
        ("transformer.h.0", "transformer.h.1.mlp"),
    ),
    Species(
        "Llama",
        llama,
        tokens,
        ("model.layers.0.mlp", linear(24)),
        "model.layers.1",
        ("model.layers.0", "model.layers.1.mlp"),
    ),
    Species(
        "BERT",
        bert,
        tokens,
        ("bert.encoder.layer.0.intermediate", linear(40)),
        "bert.encoder.layer.1",
        ("bert.encoder.layer.0", "bert.encoder.layer.1"),
    ),
    Species(
        "T5",
        t5,
        both_sides,
        ("encoder.block.0.layer.1.DenseReluDense", linear(24)),
        "encoder.block.1",
        ("encoder.block.0.layer.1", "encoder.block.1.layer.1.DenseReluDense"),
    ),
    Species(
        "Mixtral",
        mixtral,
        tokens,
        ("model.layers.0.self_attn.o_proj", linear(24)),
        "model.layers.1",
        ("model.layers.0", "model.layers.1"),
        units=4,
    ),
    Species(
        "ViT",
        vit,
        pixels,
        ("vit.layers.0.mlp", linear(24)),
        "vit.layers.1",
        ("vit.layers.0", "vit.layers.1"),
    ),
    Species(
        "ResNet",
        resnet,
        pixels,
        ("resnet.encoder.stages.0.layers.0", {"type": "conv2d", "in_channels": 12, "out_channels": 12}),
        "resnet.encoder.stages.0.layers.1",
        ("resnet.encoder.stages.0.layers.0", "resnet.encoder.stages.0.layers.1"),
    ),
    Species(
        "GPT-NeoX",
        gpt_neox,
        tokens,
        ("gpt_neox.layers.0.mlp", linear(24)),
        "gpt_neox.layers.1",
        ("gpt_neox.layers.0", "gpt_neox.layers.1.mlp"),
    ),
    Species(
        "DeBERTa",
        deberta,
        tokens,
        ("deberta.encoder.layer.0.intermediate", linear(40)),
        "deberta.encoder.layer.1",
        ("deberta.encoder.layer.0", "deberta.encoder.layer.1"),
    ),
    Species(
        "Mamba",
        mamba,
        tokens,
        ("backbone.layers.0.mixer", linear(24)),
        "backbone.layers.1",
        ("backbone.layers.0", "backbone.layers.1.mixer"),
    ),
    Species(
        "Whisper",
        whisper,
        spectrogram,
        ("model.encoder.layers.0.fc2", linear(24)),
        "model.decoder.layers.1",
        ("model.decoder.layers.0", "model.decoder.layers.1"),
    ),
)
