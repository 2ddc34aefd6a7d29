"""Recurrent cells that accelerators run as one operator each, taken apart into operators that have rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch._ops import OpOverload, OpOverloadPacket

from esper_es.tracing.rule_table import existing


def lstm_cell(
    input_gates: torch.Tensor,
    hidden_gates: torch.Tensor,
    cx: torch.Tensor,
    input_bias: torch.Tensor | None = None,
    hidden_bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return hidden state and cell state ``[N, H]`` and the activated gates ``[N, 4 H]``.

    Args:
        input_gates: ``[N, 4 H]``: input, forget, cell, output.
        hidden_gates: as ``input_gates``.
        cx: cell state before, ``[N, H]``.
        input_bias: ``[4 H]``.
        hidden_bias: ``[4 H]``.
    """
    gates = _biased(input_gates, input_bias) + _biased(hidden_gates, hidden_bias)
    entering, kept, cell, leaving = gates.chunk(4, 1)
    entering, kept, cell, leaving = entering.sigmoid(), kept.sigmoid(), cell.tanh(), leaving.sigmoid()
    cy = kept * cx + entering * cell
    return leaving * cy.tanh(), cy, torch.cat((entering, kept, cell, leaving), 1)


def gru_cell(
    input_gates: torch.Tensor,
    hidden_gates: torch.Tensor,
    hx: torch.Tensor,
    input_bias: torch.Tensor | None = None,
    hidden_bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the hidden state ``[N, H]`` and what a backward pass would need, ``[N, 5 H]``.

    Args:
        input_gates: ``[N, 3 H]``: reset, update, new.
        hidden_gates: as ``input_gates``.
        hx: hidden state before, ``[N, H]``.
        input_bias: ``[3 H]``.
        hidden_bias: ``[3 H]``.
    """
    from_input = _biased(input_gates, input_bias).chunk(3, 1)
    from_hidden = _biased(hidden_gates, hidden_bias).chunk(3, 1)
    reset = (from_input[0] + from_hidden[0]).sigmoid()
    update = (from_input[1] + from_hidden[1]).sigmoid()
    new = (from_input[2] + reset * from_hidden[2]).tanh()
    return new + update * (hx - new), torch.cat((reset, update, new, hx, from_hidden[2]), 1)


def _biased(gates: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return gates if bias is None else gates + bias


_PARTS: Mapping[OpOverloadPacket, Callable[..., Any]] = {
    **dict.fromkeys(existing(torch.ops.aten, "_thnn_fused_lstm_cell"), lstm_cell),
    **dict.fromkeys(existing(torch.ops.aten, "_thnn_fused_gru_cell"), gru_cell),
}


def taken_apart(func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return what an operator returns by others of which it consists, or ``NotImplemented``."""
    parts = _PARTS.get(func.overloadpacket)
    return func.decompose(*args, **kwargs) if parts is None else parts(*args, **kwargs)
