"""Transformers of a few thousand parameters, from configurations, with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from attrs import frozen
from torch import Tensor, nn

from esper_es import Engine, Run, blueprint
from esper_es.tracing.structure import result_tensors

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()

LAYERS = 2
PYRAMID = {
    "num_encoder_blocks": 2,
    "depths": [1, 1],
    "hidden_sizes": [12, 16],
    "patch_sizes": [4, 2],
    "strides": [4, 2],
    "num_attention_heads": [3, 4],
    "mlp_ratios": [2, 2],
}
COMMON = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4}


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=97, n_positions=16, n_embd=32, n_layer=LAYERS, n_head=4, bos_token_id=0, eos_token_id=1
    )
    return _made(transformers.GPT2LMHeadModel(config))


def bert() -> nn.Module:
    config = transformers.BertConfig(**COMMON, intermediate_size=48, max_position_embeddings=16)
    return _made(transformers.BertForSequenceClassification(config))


def llama() -> nn.Module:
    config = transformers.LlamaConfig(**COMMON, num_key_value_heads=2, intermediate_size=40)
    return _made(transformers.LlamaForCausalLM(config))


def gemma() -> nn.Module:
    config = transformers.GemmaConfig(**COMMON, num_key_value_heads=1, head_dim=8, intermediate_size=40)
    return _made(transformers.GemmaForCausalLM(config))


def t5() -> nn.Module:
    config = transformers.T5Config(vocab_size=97, d_model=32, d_kv=8, d_ff=48, num_layers=LAYERS, num_heads=4)
    return _made(transformers.T5ForConditionalGeneration(config))


def vit() -> nn.Module:
    sizes = {key: value for key, value in COMMON.items() if key != "vocab_size"}
    config = transformers.ViTConfig(**sizes, intermediate_size=48, image_size=16, patch_size=8)
    return _made(transformers.ViTForImageClassification(config))


def swin() -> nn.Module:
    config = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4
    )
    return _made(transformers.SwinForImageClassification(config))


def mamba() -> nn.Module:
    sizes = {"hidden_size": 12, "state_size": 6, "time_step_rank": 3, "use_cache": False}
    return _made(
        transformers.MambaForCausalLM(
            transformers.MambaConfig(vocab_size=97, num_hidden_layers=LAYERS, **sizes)
        )
    )


def mamba2() -> nn.Module:
    sizes = {
        "hidden_size": 24,
        "state_size": 4,
        "num_heads": 6,
        "head_dim": 8,
        "n_groups": 3,
        "chunk_size": 4,
    }
    config = transformers.Mamba2Config(vocab_size=97, num_hidden_layers=LAYERS, use_cache=False, **sizes)
    return _made(transformers.Mamba2ForCausalLM(config))


def phi3() -> nn.Module:
    config = transformers.Phi3Config(
        **COMMON, num_key_value_heads=2, intermediate_size=40, pad_token_id=0, bos_token_id=0, eos_token_id=1
    )
    return _made(transformers.Phi3ForCausalLM(config))


def pvt() -> nn.Module:
    config = transformers.PvtConfig(image_size=16, sequence_reduction_ratios=[2, 1], **PYRAMID)
    return _made(transformers.PvtForImageClassification(config))


def pvt_v2() -> nn.Module:
    config = transformers.PvtV2Config(image_size=16, sr_ratios=[2, 1], **PYRAMID)
    return _made(transformers.PvtV2ForImageClassification(config))


def segformer() -> nn.Module:
    config = transformers.SegformerConfig(sr_ratios=[2, 1], decoder_hidden_size=10, **PYRAMID)
    return _made(transformers.SegformerForSemanticSegmentation(config))


def xlnet() -> nn.Module:
    sizes = {"d_model": 32, "n_layer": LAYERS, "n_head": 4, "d_inner": 48}
    return _made(
        transformers.XLNetForSequenceClassification(transformers.XLNetConfig(vocab_size=97, **sizes))
    )


def _made(model: Any) -> nn.Module:
    made: nn.Module = model.train()
    return made


class Recurrent(nn.Module):
    """A two-layer bidirectional LSTM between linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(5, 7)
        self.lstm = nn.LSTM(7, 6, 2, bidirectional=True, batch_first=True)
        self.leave = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        left: Tensor = self.leave(self.lstm(torch.relu(self.enter(x)))[0][:, -1])
        return left


class Frozen(nn.Module):
    """A BatchNorm whose numbers are all buffers, one of them not stored, between linear layers."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 6), nn.Linear(6, 3)
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.linspace(0.5, 1.5, 6), persistent=name != "bias")

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        left: Tensor = self.leave(self.enter(x) * scale + (self.bias - self.running_mean * scale))
        return left


class Positioned(nn.Module):
    """A table of positions, a buffer that is not stored, is added to a stream under a norm."""

    positions: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm, self.leave = nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 3)
        self.register_buffer("positions", torch.linspace(0, 9, 48).sin().view(1, 8, 6), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        left: Tensor = self.leave(self.norm(self.enter(x) + self.positions[:, : x.shape[1]]))
        return left


class Encoder(nn.Module):
    """torch's own transformer encoder, normed first."""

    def __init__(self, norm_first: bool = True) -> None:
        super().__init__()
        self.enter = nn.Linear(5, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(16), enable_nested_tensor=False)
        self.leave = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        left: Tensor = self.leave(self.encoder(self.enter(x)).mean(1))
        return left


def _tokens(names: str = "input_ids") -> Mapping[str, Tensor]:
    return {name: torch.randint(2, 97, (2, 6)) for name in names.split()}


@frozen
class Transformer:
    """A model of the tests and what it is fed."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Mapping[str, Tensor]]

    def attached(self, engine: Engine, **terms: Any) -> Run:
        """Attach a new model with AdamW over it, under its own name."""
        model = self.build()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        return engine.attach(
            model,
            name=self.name,
            example_inputs=dict(self.inputs()),
            optimizer=optimizer,
            blueprint=f"tests/width/{self.name}",
            **terms,
        )


def _transformer(
    name: str, build: Callable[[], nn.Module], inputs: Callable[[], Mapping[str, Tensor]]
) -> Transformer:
    blueprint(f"tests/width/{name}")(build)
    return Transformer(name, build, inputs)


GPT2 = _transformer("gpt2", gpt2, _tokens)
BERT = _transformer("bert", bert, _tokens)
LLAMA = _transformer("llama", llama, _tokens)
GEMMA = _transformer("gemma", gemma, _tokens)
T5 = _transformer("t5", t5, lambda: _tokens("input_ids decoder_input_ids"))
VIT = _transformer("vit", vit, lambda: {"pixel_values": torch.randn(2, 3, 16, 16)})
SWIN = _transformer("swin", swin, lambda: {"pixel_values": torch.randn(2, 3, 32, 32)})
MAMBA = _transformer("mamba", mamba, _tokens)
MAMBA2 = _transformer("mamba2", mamba2, _tokens)
XLNET = _transformer(
    "xlnet", xlnet, lambda: {**_tokens(), "token_type_ids": torch.randint(0, 2, (2, 6)), "use_mems": False}
)
PHI3 = _transformer("phi3", phi3, _tokens)
PVT = _transformer("pvt", pvt, lambda: {"pixel_values": torch.randn(2, 3, 16, 16)})
PVT_V2 = _transformer("pvt_v2", pvt_v2, lambda: {"pixel_values": torch.randn(2, 3, 16, 16)})
SEGFORMER = _transformer("segformer", segformer, lambda: {"pixel_values": torch.randn(2, 3, 16, 16)})
LSTM = _transformer("lstm", Recurrent, lambda: {"x": torch.randn(3, 4, 5)})
FROZEN = _transformer("frozen", Frozen, lambda: {"x": torch.randn(3, 5)})
POSITIONED = _transformer("positioned", Positioned, lambda: {"x": torch.randn(3, 4, 5)})
ENCODER = _transformer("encoder", Encoder, lambda: {"x": torch.randn(3, 4, 5)})


def trained(run: Run, steps: int = 2) -> None:
    """Take optimizer steps on the run's own example inputs."""
    optimizer = run.session.live.optimizer
    assert optimizer is not None
    for _ in range(steps):
        optimizer.zero_grad()
        _, inputs = next(run.session.examples.fresh())
        outputs = [t for t in result_tensors(run.model(**inputs)) if t.is_floating_point()]
        torch.autograd.backward(torch.stack([t.square().mean() for t in outputs]).sum())
        optimizer.step()
