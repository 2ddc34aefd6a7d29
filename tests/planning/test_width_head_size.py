"""The size of heads, both ways: what they computed stays, old channels keep their frequencies, all of it is exact."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attrs import frozen
from torch import Tensor, nn

from esper_es import Engine, Run, SurgeryResult, fingerprint
from esper_es.tracing import WidthGroup
from esper_es.tracing.structure import result_tensors

from .head_models import (
    COHERE,
    DEBERTA,
    DEBERTA_V2,
    FALCON,
    FREE,
    GPTJ,
    MISTRAL,
    NEOX,
    OPT,
    PHI,
    QWEN3,
    TIMM,
    TIMM_NORMED,
    WHISPER,
)
from .transformer_models import BERT, ENCODER, GEMMA, GPT2, LLAMA, PHI3, PVT, T5, VIT, Transformer, trained

ROUNDING = 2e-6
LLAMA_Q = "model.layers.0.self_attn.q_proj"


@frozen
class Heads:
    """Heads to change, by a layer that makes them, and the sizes that they have and get."""

    model: Transformer
    layer: str
    old: int = 8
    new: int = 10
    dimension: str | int = "out"

    def __str__(self) -> str:
        return f"{self.model.name}-{self.layer}"


HEADS = [
    Heads(LLAMA, LLAMA_Q),
    Heads(LLAMA, "model.layers.1.self_attn.o_proj", dimension="in"),
    Heads(MISTRAL, LLAMA_Q),
    Heads(QWEN3, LLAMA_Q),
    Heads(GEMMA, LLAMA_Q),
    Heads(GEMMA, "model.layers.0.self_attn.v_proj"),
    Heads(COHERE, LLAMA_Q),
    Heads(PHI3, "model.layers.0.self_attn.qkv_proj"),
    Heads(FALCON, "transformer.h.0.self_attention.query_key_value"),
    Heads(GPT2, "transformer.h.0.attn.c_attn"),
    Heads(BERT, "bert.encoder.layer.0.attention.self.query"),
    Heads(T5, "encoder.block.0.layer.0.SelfAttention.q"),
    Heads(T5, "decoder.block.0.layer.0.SelfAttention.v"),
    Heads(T5, "decoder.block.0.layer.1.EncDecAttention.k"),
    Heads(VIT, "vit.layers.0.attention.q_proj"),
    Heads(TIMM, "blocks.0.attn.qkv"),
    Heads(TIMM_NORMED, "blocks.0.attn.qkv"),
    Heads(ENCODER, "encoder.layers.0.self_attn.in_proj_weight", 4, 5, 0),
    Heads(NEOX, "gpt_neox.layers.0.attention.query_key_value", 8, 9),
    Heads(PHI, LLAMA_Q, 8, 9),
    Heads(OPT, "model.decoder.layers.0.self_attn.q_proj"),
    Heads(GPTJ, "transformer.h.0.attn.q_proj", 8, 9),
    Heads(DEBERTA, "deberta.encoder.layer.0.attention.self.in_proj"),
    Heads(DEBERTA_V2, "deberta.encoder.layer.0.attention.self.query_proj"),
    Heads(WHISPER, "model.encoder.layers.0.self_attn.q_proj"),
    Heads(WHISPER, "model.decoder.layers.0.encoder_attn.k_proj"),
    Heads(PVT, "pvt.encoder.block.0.0.attention.self.query", 4, 5),
    Heads(FREE, "q", 6, 7),
]


def attached(engine: Engine, model: Transformer) -> Run:
    """Attach a model in which no channel is silent, and train it a little."""
    run = model.attached(engine)
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    trained(run)
    return run


def sized(run: Run, heads: Heads, size: int, **terms: Any) -> SurgeryResult:
    result = run.surgeon.modify_layer_width(
        layer_name=heads.layer, new_width=size, unit="head_size", dimension=heads.dimension, **terms
    )
    assert result.success, result.error
    return result


def outputs(run: Run) -> list[Tensor]:
    _, inputs = next(run.session.examples.fresh())
    run.model.eval()
    with torch.no_grad():
        found = [tensor.double() for tensor in result_tensors(run.model(**inputs))]
    run.model.train()
    return found


def first(module: nn.Module, group: WidthGroup) -> Tensor:
    """Prefer the places that come first."""
    return -torch.arange(group.units)


def moved(one: list[Tensor], other: list[Tensor]) -> float:
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_larger_heads_compute_what_they_did(heads: Heads, engine: Engine) -> None:
    run = attached(engine, heads.model)
    before = outputs(run)
    sized(run, heads, heads.new)
    assert moved(before, outputs(run)) <= ROUNDING


@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_channels_that_came_go_again(heads: Heads, engine: Engine) -> None:
    run = attached(engine, heads.model)
    before = outputs(run)
    sized(run, heads, heads.new)
    sized(run, heads, heads.old, importance=first)
    assert moved(before, outputs(run)) <= ROUNDING


@pytest.mark.parametrize("ways", [1, -1], ids=["larger", "smaller"])
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_heads_of_another_size_train_replay_and_roll_back_exactly(
    heads: Heads, ways: int, engine: Engine
) -> None:
    run = attached(engine, heads.model)
    run.capture()
    old, version, before = run.fingerprint, run.version, outputs(run)
    sized(run, heads, heads.old + ways * (heads.new - heads.old))
    trained(run, 20)
    run.capture()
    replayed = engine.replay(heads.model.name)
    assert (replayed.esper_replay.exact, fingerprint(replayed)) == (True, run.fingerprint)
    run.rollback(to_version=version)
    assert run.fingerprint == old
    assert moved(before, outputs(run)) == 0.0


@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_every_new_channel_learns(heads: Heads, engine: Engine) -> None:
    run = attached(engine, heads.model)
    sized(run, heads, heads.new)
    parameters = dict(run.model.named_parameters())
    grown = [edit for edit in last_edits(engine, heads) if getattr(edit, "fill", None) is not None]
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    trained(run, 20)
    for edit in grown:
        if edit.tensor in parameters and parameters[edit.tensor].ndim > 1:
            change = (parameters[edit.tensor].detach() - before[edit.tensor]).movedim(edit.dim, 0)
            new = [index for index, old in enumerate(edit.gather) if old < 0]
            assert change[new].flatten(1).abs().sum(1).all(), edit.tensor


def last_edits(engine: Engine, heads: Heads) -> Any:
    return engine.history(heads.model.name)[-1].fact.edits
