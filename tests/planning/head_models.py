"""More transformers of a few thousand parameters, whose attentions cut, turn and norm heads in ways of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo.timm_alone import import_timm

from esper_es import blueprint

from .transformer_models import COMMON, LAYERS, Transformer

transformers = pytest.importorskip("transformers")

TOKENS = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1}
SMALL = {**COMMON, "intermediate_size": 40, **TOKENS}
GROUPED = {**SMALL, "num_key_value_heads": 2}


def _tokens(names: str = "input_ids") -> Mapping[str, Tensor]:
    return {name: torch.randint(2, 97, (2, 6)) for name in names.split()}


def _transformer(
    name: str, build: Callable[[], nn.Module], inputs: Callable[[], Mapping[str, Tensor]] = _tokens
) -> Transformer:
    blueprint(f"tests/width/{name}")(build)
    return Transformer(name, build, inputs)


def _of(name: str, model: str, config: str, **sizes: Any) -> Transformer:
    def build() -> nn.Module:
        made: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**sizes)).train()
        return made

    return _transformer(name, build)


MISTRAL = _of("mistral", "MistralForCausalLM", "MistralConfig", **GROUPED, head_dim=8, sliding_window=4)
QWEN3 = _of("qwen3", "Qwen3ForCausalLM", "Qwen3Config", **GROUPED, head_dim=8)
GEMMA3 = _of("gemma3", "Gemma3ForCausalLM", "Gemma3TextConfig", **GROUPED, head_dim=8, sliding_window=4)
NEOX = _of("neox", "GPTNeoXForCausalLM", "GPTNeoXConfig", **SMALL, rotary_pct=0.5)
PHI = _of("phi", "PhiForCausalLM", "PhiConfig", **SMALL, partial_rotary_factor=0.5)
PHI_NORMED = _of(
    "phi-normed", "PhiForCausalLM", "PhiConfig", **SMALL, partial_rotary_factor=0.5, qk_layernorm=True
)
STABLELM = _of("stablelm", "StableLmForCausalLM", "StableLmConfig", **GROUPED, qk_layernorm=True)
PERSIMMON = _of("persimmon", "PersimmonForCausalLM", "PersimmonConfig", **SMALL, partial_rotary_factor=0.5)
COHERE = _of("cohere", "CohereForCausalLM", "CohereConfig", **GROUPED)
FALCON = _of("falcon", "FalconForCausalLM", "FalconConfig", **COMMON, **TOKENS)
FALCON_ALIBI = _of("falcon-alibi", "FalconForCausalLM", "FalconConfig", **COMMON, **TOKENS, alibi=True)
OPT = _of("opt", "OPTForCausalLM", "OPTConfig", **COMMON, ffn_dim=40, word_embed_proj_dim=32, **TOKENS)
GPTJ_SIZES = {"vocab_size": 97, "n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": 16}
GPTJ = _of("gptj", "GPTJForCausalLM", "GPTJConfig", **GPTJ_SIZES, rotary_dim=4)
GPTJ_TURNED = _of("gptj-turned", "GPTJForCausalLM", "GPTJConfig", **GPTJ_SIZES, rotary_dim=8)
RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_position_embeddings": 16}
DEBERTA = _of("deberta", "DebertaForSequenceClassification", "DebertaConfig", **SMALL, **RELATIVE)
DEBERTA_V2 = _of("deberta-v2", "DebertaV2ForSequenceClassification", "DebertaV2Config", **SMALL, **RELATIVE)
DYNAMIC = _of(
    "dynamic",
    "LlamaForCausalLM",
    "LlamaConfig",
    **GROUPED,
    rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
)


ONE = {**SMALL, "hidden_size": 12, "num_attention_heads": 1}
BERT_OF_ONE = _of("bert-of-one", "BertForSequenceClassification", "BertConfig", **ONE)
LLAMA_OF_ONE = _of("llama-of-one", "LlamaForCausalLM", "LlamaConfig", **ONE, num_key_value_heads=1)
GPT2_OF_ONE = _of(
    "gpt2-of-one",
    "GPT2LMHeadModel",
    "GPT2Config",
    **{**GPTJ_SIZES, "n_embd": 12, "n_head": 1},
    bos_token_id=0,
    eos_token_id=1,
)
BLOOM = _of("bloom", "BloomForCausalLM", "BloomConfig", **COMMON, **TOKENS)
MLA = {"q_lora_rank": 12, "kv_lora_rank": 10, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6}
EXPERTS = {
    "moe_intermediate_size": 12,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
}
DEEPSEEK = _of("deepseek", "DeepseekV3ForCausalLM", "DeepseekV3Config", **SMALL, **MLA, **EXPERTS)
LLAMA4 = _of(
    "llama4",
    "Llama4ForCausalLM",
    "Llama4TextConfig",
    **GROUPED,
    head_dim=8,
    intermediate_size_mlp=40,
    num_local_experts=2,
    interleave_moe_layer_step=2,
    no_rope_layers=[1, 0],
)
FUNNEL_SIZES = {
    "vocab_size": 97,
    "block_sizes": [1, 1],
    "d_model": 32,
    "n_head": 4,
    "d_head": 8,
    "d_inner": 40,
}
FUNNEL = _of("funnel", "FunnelModel", "FunnelConfig", **FUNNEL_SIZES)
FUNNEL_BASE = _of("funnel-base", "FunnelBaseModel", "FunnelConfig", **FUNNEL_SIZES)


def longformer() -> nn.Module:
    config = transformers.LongformerConfig(**SMALL, attention_window=4, max_position_embeddings=40)
    made: nn.Module = transformers.LongformerModel(config).train()
    return made


LONGFORMER = _transformer(
    "longformer",
    longformer,
    lambda: {
        "input_ids": torch.randint(2, 97, (2, 8)),
        "global_attention_mask": torch.tensor([[1] + [0] * 7] * 2),
    },
)


class Turned(nn.Module):
    """An attention with its own tables of sines and cosines: a pair of channels has one column of them, or two."""

    cos: Tensor
    sin: Tensor

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.heads, self.size, self.layout = 4, 8, layout
        self.qkv, self.out = nn.Linear(16, 96), nn.Linear(32, 16)
        angles = torch.arange(12.0)[:, None] / 1e4 ** (torch.arange(4) / 4)
        if layout == "halves":
            angles = angles.repeat(1, 2)
        if layout == "neighbours":
            angles = angles.repeat_interleave(2, 1)
        self.register_buffer("cos", angles.cos()[None, None])
        self.register_buffer("sin", angles.sin()[None, None], persistent=False)

    def turn(self, x: Tensor) -> Tensor:
        cos, sin = self.cos[:, :, : x.shape[2]], self.sin[:, :, : x.shape[2]]
        if self.layout == "neighbours":
            return x * cos + torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2) * sin
        left, right = x.chunk(2, -1)
        if self.layout == "halves":
            return x * cos + torch.cat([-right, left], -1) * sin
        return torch.cat([left * cos - right * sin, right * cos + left * sin], -1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, self.size)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(self.turn(q), self.turn(k), v)
        made: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return made


TURNED = [
    _transformer(f"turned-{layout}", partial(Turned, layout), lambda: {"x": torch.randn(2, 6, 16)})
    for layout in ("once", "halves", "neighbours")
]
ROFORMER = _of(
    "roformer", "RoFormerForSequenceClassification", "RoFormerConfig", **SMALL, max_position_embeddings=16
)


def whisper() -> nn.Module:
    sizes = {"d_model": 32, "num_mel_bins": 8, "max_source_positions": 10, "max_target_positions": 16}
    for part in ("encoder", "decoder"):
        sizes |= {f"{part}_layers": 1, f"{part}_attention_heads": 4, f"{part}_ffn_dim": 40}
    config = transformers.WhisperConfig(vocab_size=97, decoder_start_token_id=1, **sizes, **TOKENS)
    made: nn.Module = transformers.WhisperForConditionalGeneration(config).train()
    return made


WHISPER = _transformer(
    "whisper", whisper, lambda: {"input_features": torch.randn(2, 8, 20), **_tokens("decoder_input_ids")}
)


def _images() -> Mapping[str, Tensor]:
    return {"x": torch.randn(2, 3, 16, 16)}


def _timm(name: str, **terms: Any) -> Transformer:
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5}

    def build() -> nn.Module:
        made: nn.Module = import_timm().models.vision_transformer.VisionTransformer(**sizes, **terms)
        return made

    return _transformer(name, build, _images)


TIMM = _timm("timm")
TIMM_NORMED = _timm("timm-normed", qk_norm=True)


class Attention(nn.Module):
    """An attention whose queries and keys may have another size than its values, scores divided by its root."""

    def __init__(self, normed: bool = False) -> None:
        super().__init__()
        self.normed = normed
        self.heads, self.qk_size, self.v_size = 3, 6, 6
        self.q, self.k, self.v = nn.Linear(12, 18), nn.Linear(12, 18), nn.Linear(12, 18)
        self.out = nn.Linear(18, 12)

    def forward(self, x: Tensor) -> Tensor:
        q, k = (f(x).unflatten(-1, (self.heads, self.qk_size)).transpose(1, 2) for f in (self.q, self.k))
        if self.normed:
            q, k = (F.rms_norm(part, part.shape[-1:]) for part in (q, k))
        v = self.v(x).unflatten(-1, (self.heads, self.v_size)).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(q, k, v)
        made: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return made


class Idle(nn.Module):
    """Adds next to nothing, under a name that norms have for that too."""

    def __init__(self) -> None:
        super().__init__()
        self.eps = 1e-3

    def forward(self, x: Tensor) -> Tensor:
        return x + self.eps


class ScaledAttention(nn.Module):
    """An attention that norms queries and keys without weights, and multiplies scores by a number that it keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.size, self.scale = 3, 6, 0.5
        self.q, self.k, self.v = nn.Linear(12, 18), nn.Linear(12, 18), nn.Linear(12, 18)
        self.out, self.idle = nn.Linear(18, 12), Idle()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            f(x).unflatten(-1, (self.heads, self.size)).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        q, k = (F.rms_norm(part, part.shape[-1:]) for part in (q, k))
        mixed = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        made: Tensor = self.out(self.idle(mixed.transpose(1, 2).flatten(2)))
        return made


SCALED_NORMED = _transformer("scaled-normed", ScaledAttention, lambda: {"x": torch.randn(2, 5, 12)})
FREE = _transformer("free", Attention, lambda: {"x": torch.randn(2, 5, 12)})
NORMED = _transformer("free-normed", partial(Attention, normed=True), lambda: {"x": torch.randn(2, 5, 12)})
ONE_POSITION = _transformer("one-position", Attention, lambda: {"x": torch.randn(2, 1, 12)})


class Tempered(Attention):
    """Heads whose number a constant fixes, before they meet: nothing shows that there are several."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (3, 6)).transpose(1, 2) for f in (self.q, self.k, self.v))
        tempers = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
        mixed = F.scaled_dot_product_attention(q * tempers, k, v)
        made: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return made


TEMPERED = _transformer("tempered", Tempered, lambda: {"x": torch.randn(2, 5, 12)})


class GroupedFilters(nn.Module):
    """A grouped convolution, whose groups are as heads are, but for what they are."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.grouped = nn.Conv1d(5, 12, 1), nn.Conv1d(12, 12, 3, groups=4)
        self.leave = nn.Conv1d(12, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        left: Tensor = self.leave(torch.relu(self.grouped(torch.relu(self.enter(x)))))
        return left


GROUPED_FILTERS = _transformer("grouped", GroupedFilters, lambda: {"x": torch.randn(2, 5, 8)})
