from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from esper_es.tracing import Trace, trace
from esper_es.tracing.fused_cells import gru_cell, lstm_cell

SIZE = 6


class Unrolled(nn.Module):
    """A recurrent cell, step by step, and a layer that reads its last state."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.leave = cell, nn.Linear(SIZE, 2)

    def forward(self, sequence: Tensor) -> Tensor:
        state = None
        for step in sequence:
            state = self.cell(step, state)
        return self.leave(state[0] if isinstance(state, tuple) else state)


class FusedLSTM(nn.LSTMCell):
    """The cell by the operator that only accelerators have."""

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        h, c = state or (x.new_zeros(len(x), SIZE), x.new_zeros(len(x), SIZE))
        gates = x @ self.weight_ih.T, h @ self.weight_hh.T
        return torch.ops.aten._thnn_fused_lstm_cell(*gates, c, self.bias_ih, self.bias_hh)[:2]


class FusedGRU(nn.GRUCell):
    """As ``FusedLSTM``."""

    def forward(self, x: Tensor, state: Tensor | None = None) -> Tensor:
        h = x.new_zeros(len(x), SIZE) if state is None else state
        gates = x @ self.weight_ih.T, h @ self.weight_hh.T
        return torch.ops.aten._thnn_fused_gru_cell(*gates, h, self.bias_ih, self.bias_hh)[0]


def traced(cell: nn.Module) -> Trace:
    return trace(Unrolled(cell), [((torch.randn(3, 2, 5),), {})])


@pytest.mark.parametrize(("fused", "plain"), [(FusedLSTM, nn.LSTMCell), (FusedGRU, nn.GRUCell)])
def test_a_fused_cell_has_the_channels_of_the_plain_one(
    fused: type[nn.Module], plain: type[nn.Module]
) -> None:
    found, expected = traced(fused(5, SIZE)).as_dict(), traced(plain(5, SIZE)).as_dict()
    assert found["groups"] == expected["groups"]


def test_a_fused_lstm_is_free() -> None:
    assert traced(FusedLSTM(5, SIZE)).group_of("cell.weight_ih").free


@torch.no_grad()
def test_an_lstm_cell_taken_apart_computes_what_torch_does() -> None:
    cell, x, h, c = nn.LSTMCell(5, SIZE), torch.randn(2, 5), torch.randn(2, SIZE), torch.randn(2, SIZE)
    found = lstm_cell(x @ cell.weight_ih.T, h @ cell.weight_hh.T, c, cell.bias_ih, cell.bias_hh)[:2]
    torch.testing.assert_close(found, cell(x, (h, c)))


@torch.no_grad()
def test_a_gru_cell_taken_apart_computes_what_torch_does() -> None:
    cell, x, h = nn.GRUCell(5, SIZE), torch.randn(2, 5), torch.randn(2, SIZE)
    found = gru_cell(x @ cell.weight_ih.T, h @ cell.weight_hh.T, h, cell.bias_ih, cell.bias_hh)[0]
    torch.testing.assert_close(found, cell(x, h))
