"""Attention whose heads have a width of their own computes what torch's does, bit for bit, where both can."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from esper_es.projections.live.free_heads import INNER, FreeHeadsAttention

BATCH, QUERIES, KEYS, EMBED, HEADS = 3, 5, 4, 12, 3

options = st.fixed_dictionaries(
    {
        "bias": st.booleans(),
        "add_bias_kv": st.booleans(),
        "add_zero_attn": st.booleans(),
        "batch_first": st.booleans(),
        "kdim": st.sampled_from((None, 7)),
        "vdim": st.sampled_from((None, 9)),
    }
)


def _mask(shape: tuple[int, ...], kind: str) -> Tensor | None:
    if kind == "none":
        return None
    hidden = torch.rand(shape) < 0.4
    hidden[..., 0] = False
    return hidden if kind == "bool" else torch.randn(shape)


def _inputs(layer: nn.MultiheadAttention, shared: str, batched: bool) -> tuple[Tensor, Tensor, Tensor]:
    def rows(positions: int, width: int) -> Tensor:
        shape = (BATCH, positions) if layer.batch_first else (positions, BATCH)
        return torch.randn(*shape, width) if batched else torch.randn(positions, width)

    query = rows(QUERIES, EMBED)
    if layer.kdim == layer.vdim == EMBED and shared != "none":
        key = query if shared == "all" else rows(KEYS, EMBED)
        return query, key, key
    return query, rows(KEYS, layer.kdim), rows(KEYS, layer.vdim)


@settings(max_examples=150, deadline=None)
@given(
    options,
    st.sampled_from(("all", "keys", "none")),
    st.booleans(),
    st.sampled_from(("none", "2d", "3d")),
    st.sampled_from(("bool", "float")),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_it_computes_what_torchs_own_does(
    arguments: dict[str, Any],
    shared: str,
    batched: bool,
    mask_rank: str,
    mask_kind: str,
    padded: bool,
    weights: bool,
    averaged: bool,
) -> None:
    torch.manual_seed(0)
    torchs = nn.MultiheadAttention(EMBED, HEADS, **arguments)
    query, key, value = _inputs(torchs, shared, batched)
    across = 1 if torchs.batch_first and batched else 0
    scores = (query.shape[across], key.shape[across])
    batch = BATCH if batched else 1
    shape = scores if mask_rank == "2d" else (batch * HEADS, *scores)
    call = {
        "need_weights": weights,
        "average_attn_weights": averaged,
        "attn_mask": None if mask_rank == "none" else _mask(shape, mask_kind),
        "key_padding_mask": _mask(
            (batch, scores[1]) if batched else scores[1:], mask_kind if padded else "none"
        ),
    }
    expected, expected_weights = torchs(query, key, value, **call)
    ours = _freed(torchs)
    found, found_weights = ours(query, key, value, **call)
    assert torch.equal(found, expected)
    assert (found_weights is None) == (expected_weights is None)
    assert expected_weights is None or torch.equal(found_weights, expected_weights)


def test_a_causal_hint_stands_for_its_mask() -> None:
    torch.manual_seed(0)
    torchs = nn.MultiheadAttention(EMBED, HEADS)
    x = torch.randn(QUERIES, BATCH, EMBED)
    call = {
        "attn_mask": nn.Transformer.generate_square_subsequent_mask(QUERIES),
        "is_causal": True,
        "need_weights": False,
    }
    expected, _ = torchs(x, x, x, **call)
    assert torch.equal(_freed(torchs)(x, x, x, **call)[0], expected)


def test_dropout_draws_what_torchs_own_draws() -> None:
    layer = nn.MultiheadAttention(EMBED, HEADS, dropout=0.5)
    x = torch.randn(QUERIES, BATCH, EMBED)
    torch.manual_seed(1)
    expected, _ = layer(x, x, x)
    torch.manual_seed(1)
    assert torch.equal(_freed(layer)(x, x, x)[0], expected)


def _freed(layer: nn.MultiheadAttention) -> nn.MultiheadAttention:
    layer.__class__ = FreeHeadsAttention
    setattr(layer, INNER, EMBED)
    return layer
