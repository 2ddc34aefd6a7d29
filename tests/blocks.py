"""Small transformers whose blocks take extra arguments and return tuples, records and None; weights are random."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from attrs import frozen
from torch import Tensor, nn

from esper_es import Engine, Run, blueprint

transformers: Any = pytest.importorskip("transformers")

TOKENS = 97
WIDTH = 32


def _gpt2() -> Any:
    config = transformers.GPT2Config(
        vocab_size=TOKENS, n_positions=16, n_embd=WIDTH, n_layer=2, n_head=4, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def _bert() -> Any:
    config = transformers.BertConfig(
        vocab_size=TOKENS, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return transformers.BertModel(config, add_pooling_layer=False)


def _llama() -> Any:
    config = transformers.LlamaConfig(
        vocab_size=TOKENS, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=16,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def _t5() -> Any:
    config = transformers.T5Config(
        vocab_size=TOKENS, d_model=WIDTH, d_kv=8, d_ff=48, num_layers=2, num_heads=4, dropout_rate=0.0,
        decoder_start_token_id=0,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config)


def _vit() -> Any:
    config = transformers.ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=16,
        patch_size=4, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=5,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config)


class Encoder(nn.Module):
    """Around torch's own encoder layers, which in evaluation read weights and call no layer."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 48, dropout=0.0, batch_first=True)
        self.embed = nn.Embedding(TOKENS, WIDTH)
        self.encode = nn.TransformerEncoder(layer, 2)
        self.leave = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.leave(self.encode(self.embed(x)))
        return scores


def _tokens(length: int = 7) -> Tensor:
    return torch.randint(0, TOKENS, (2, length))


@frozen
class Blocks:
    """A model and the parts of it that surgeries are tried on.

    Attributes:
        name: of its blueprint.
        build: makes one.
        inputs: draws keyword arguments.
        parts: a block, its attention, its feed-forward part, a norm.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], dict[str, Tensor]]
    parts: tuple[str, ...]


MODELS = (
    Blocks(
        "gpt2", _gpt2, lambda: {"input_ids": _tokens()},
        ("transformer.h.0", "transformer.h.1.attn", "transformer.h.0.mlp", "transformer.ln_f"),
    ),
    Blocks(
        "bert", _bert, lambda: {"input_ids": _tokens(), "attention_mask": torch.ones(2, 7, dtype=torch.int64)},
        ("encoder", "encoder.layer.0", "encoder.layer.1.attention", "encoder.layer.0.output",
         "encoder.layer.0.attention.self"),
    ),
    Blocks(
        "llama", _llama, lambda: {"input_ids": _tokens()},
        ("model.layers.0", "model.layers.1.self_attn", "model.layers.0.mlp", "model.layers.1.input_layernorm"),
    ),
    Blocks(
        "t5", _t5, lambda: {"input_ids": _tokens(), "decoder_input_ids": _tokens(5)},
        ("encoder.block.1", "decoder.block.1", "decoder.block.0.layer.1.EncDecAttention",
         "encoder.block.0.layer.1", "decoder.final_layer_norm"),
    ),
    Blocks(
        "vit", _vit, lambda: {"pixel_values": torch.randn(2, 3, 16, 16)},
        ("vit.layers.0", "vit.layers.1.attention", "vit.layers.0.mlp", "vit.layernorm"),
    ),
    Blocks(
        "encoder", Encoder, lambda: {"x": _tokens()},
        ("encode.layers.0", "encode.layers.1", "encode.layers.0.self_attn", "encode.layers.1.linear2",
         "encode.layers.0.norm1", "encode.layers.1.dropout2"),
    ),
)  # fmt: skip

for _model in MODELS:
    blueprint(f"tests/blocks/{_model.name}")(_model.build)


def every_part() -> Iterator[Any]:
    """Yield a pytest parameter for each part of each model."""
    for model in MODELS:
        for part in model.parts:
            yield pytest.param(model, part, id=f"{model.name}-{part}")


def model_named(name: str) -> Blocks:
    return next(model for model in MODELS if model.name == name)


def attached_blocks(engine: Engine, model: Blocks) -> tuple[Run, dict[str, Tensor]]:
    """Attach a new model with Adam; return its run and the example inputs."""
    module = model.build()
    inputs = model.inputs()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    run = engine.attach(
        module,
        name="model",
        example_inputs=inputs,
        optimizer=optimizer,
        blueprint=f"tests/blocks/{model.name}",
    )
    return run, inputs


def outputs(module: nn.Module, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Return the output tensors in evaluation, under no_grad, where fused paths are taken."""
    with torch.no_grad():
        return _tensors(module.eval()(**inputs))


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return [tensor for item in items for tensor in _tensors(item)]


def train_blocks(run: Run, inputs: dict[str, Tensor], steps: int = 2) -> None:
    """Take optimizer steps."""
    optimizer = run.session.live.optimizer
    assert optimizer is not None
    for _ in range(steps):
        optimizer.zero_grad()
        made = [tensor for tensor in _tensors(run.model.train()(**inputs)) if tensor.requires_grad]
        torch.autograd.backward(torch.stack([tensor.square().mean() for tensor in made]).sum())
        optimizer.step()
    optimizer.zero_grad()
