"""``nn.MultiheadAttention`` whose heads are not as wide, all together, as what it is fed and returns.

torch's ``forward`` takes the width of all heads, ``num_heads * head_dim``, from that of its input. The one here takes
it from ``inner_dim``, an attribute that such a module has besides; else it computes the same, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INNER = "inner_dim"
"""Attribute of an attention layer with free heads: their width, all together. None or absent otherwise."""


def may_free_heads(cls: type[nn.Module]) -> bool:
    """Say whether modules of a class run torch's ``forward``, so that ``attend`` can stand in for it."""
    return issubclass(cls, nn.MultiheadAttention) and cls.forward is nn.MultiheadAttention.forward


def has_free_heads(module: nn.Module) -> bool:
    """Say whether a module is an attention layer whose heads have a width of their own."""
    return isinstance(module, nn.MultiheadAttention) and module.__dict__.get(INNER) is not None


def attend(
    self: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Attend as ``nn.MultiheadAttention`` does; arguments, shapes and results are its own.

    Raises:
        RuntimeError: if ``is_causal`` is given without ``attn_mask``, or the mask is of another shape.
    """
    if self.__dict__.get(INNER) is None:
        plain: tuple[Tensor, Tensor | None] = nn.MultiheadAttention.forward(
            self,
            query,
            key,
            value,
            key_padding_mask,
            need_weights,
            attn_mask,
            average_attn_weights,
            is_causal,
        )
        return plain
    if is_causal and attn_mask is None:
        raise RuntimeError("is_causal is a hint about attn_mask; give that too")
    batched = query.dim() == 3
    if not batched:
        query, key, value = _each(lambda tensor: tensor.unsqueeze(1), query, key, value)
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    elif self.batch_first:
        query, key, value = _each(lambda tensor: tensor.transpose(1, 0), query, key, value)
    causal = is_causal and key_padding_mask is None and not need_weights
    q, k, v = _projected(self, query, key, value)
    k, v = _extended(self, k, v)
    mask = _mask(self, None if causal else attn_mask, key_padding_mask, k.shape[1], q.dtype)
    mix = _weighed if need_weights else _fused
    mixed, weights = mix(self, q, k, v, mask, causal)
    out = F.linear(mixed.flatten(0, 1), self.out_proj.weight, self.out_proj.bias)
    out = out.view(query.shape[0], query.shape[1], -1)
    if weights is not None and average_attn_weights:
        weights = weights.mean(dim=1)
    if not batched:
        return out.squeeze(1), None if weights is None else weights.squeeze(0)
    return (out.transpose(1, 0) if self.batch_first else out), weights


def _each(
    change: Callable[[Tensor], Tensor], query: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, ...]:
    """Change three tensors, of which those that are one stay one."""
    queries = change(query)
    keys = queries if key is query else change(key)
    values = queries if value is query else keys if value is key else change(value)
    return queries, keys, values


def _projected(self: Any, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values, each ``(positions, batch, inner_dim)``."""
    biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
    if self.in_proj_weight is None:
        weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
    elif query is key and key is value:
        packed = F.linear(query, self.in_proj_weight, self.in_proj_bias)
        return tuple(packed.chunk(3, dim=-1))
    else:
        weights = self.in_proj_weight.chunk(3)
    return tuple(map(F.linear, (query, key, value), weights, biases))


def _by_head(self: Any, tensor: Tensor) -> Tensor:
    """``(positions, batch, inner_dim)`` as ``(batch * heads, positions, head_dim)``."""
    positions, batch, _ = tensor.shape
    return tensor.reshape(positions, batch * self.num_heads, -1).transpose(0, 1)


def _extended(self: Any, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values by head, with the learnt position and the one of zeros behind them, where there are any."""
    if self.bias_k is not None:
        k, v = (
            torch.cat([t, bias.repeat(1, t.shape[1], 1)]) for t, bias in ((k, self.bias_k), (v, self.bias_v))
        )
    k, v = _by_head(self, k), _by_head(self, v)
    if self.add_zero_attn:
        k, v = (torch.cat([t, t.new_zeros(t.shape[0], 1, t.shape[2])], dim=1) for t in (k, v))
    return k, v


def _mask(
    self: Any, attention: Tensor | None, padding: Tensor | None, positions: int, dtype: torch.dtype
) -> Tensor | None:
    """What is added to the scores, ``(batch or 1, heads or 1, queries or 1, keys)``: both masks together."""
    parts = []
    if attention is not None:
        shape = (-1, self.num_heads) if attention.dim() == 3 else (1, 1)
        parts.append(_added(attention, dtype).view(*shape, *attention.shape[-2:]))
    if padding is not None:
        parts.append(_added(padding, dtype)[:, None, None, :])
    wide = [F.pad(part, (0, positions - part.shape[-1])) for part in parts]
    return None if not wide else wide[0] if len(wide) == 1 else wide[0] + wide[1]


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, float("-inf"))


def _weighed(
    self: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor]:
    """Mix values by weights that are wanted too, ``(batch, heads, queries, keys)``."""
    q = _by_head(self, q)
    scaled, heads = q * sqrt(1.0 / q.shape[2]), self.num_heads
    if mask is None:
        scores = torch.bmm(scaled, k.transpose(1, 2))
    elif mask.shape[0] == 1 or mask.shape[1] == heads:
        scores = torch.baddbmm(mask.flatten(0, 1), scaled, k.transpose(1, 2))
    else:
        scores = torch.bmm(scaled, k.transpose(1, 2))
        scores = (scores.view(-1, heads, *scores.shape[1:]) + mask).flatten(0, 1)
    weights = F.dropout(scores.softmax(dim=-1), self.dropout, self.training)
    mixed = torch.bmm(weights, v).transpose(0, 1).reshape(q.shape[1], len(q) // heads, -1)
    return mixed, weights.view(-1, heads, *weights.shape[1:])


def _fused(
    self: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool
) -> tuple[Tensor, None]:
    """Mix values by weights that nobody sees."""
    q, k, v = (t.view(-1, self.num_heads, *t.shape[1:]) for t in (_by_head(self, q), k, v))
    dropout = self.dropout if self.training else 0.0
    mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout, causal)
    return mixed.permute(2, 0, 1, 3).flatten(2), None


class FreeHeadsAttention(nn.MultiheadAttention):
    """What an attention layer with free heads becomes in a plain module; see ``run.export``."""

    forward = attend
