"""What a change says once, its fact says once, however many layers it touches."""

from __future__ import annotations

import torch
from torch import nn

from esper_es import Engine, Run, blueprint
from esper_es.domain.edits import ResizeTensor
from esper_es.domain.envelope import Envelope
from esper_es.domain.facts import LayerWidthModified
from esper_es.ledger.codec import encode


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.enter = nn.Linear(16, 24)
        self.leave = nn.Linear(24, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.leave(torch.relu(self.enter(self.norm(x))))


@blueprint("fact-sizes-stream")
class Stream(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 16)
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def widened(depth: int) -> tuple[Run, Envelope]:
    """Return a run whose stream was widened, and the fact of it."""
    model = Stream(depth)
    optimizer = torch.optim.Adam(model.parameters())
    engine = Engine(":memory:")
    run = engine.attach(
        model,
        name="m",
        example_inputs=(torch.randn(4, 5),),
        optimizer=optimizer,
        blueprint="fact-sizes-stream",
        blueprint_args={"depth": depth},
    )
    model(torch.randn(4, 5)).sum().backward()
    optimizer.step()
    assert run.surgeon.modify_layer_width(layer_name="embed", new_width=20).success
    return run, engine.history("m")[-1]


def test_a_width_through_four_times_the_layers_takes_hardly_more() -> None:
    few, many = (len(encode(widened(depth)[1])[1]) for depth in (6, 24))
    assert many < 1.05 * few


def test_the_new_entries_of_a_width_lie_in_one_tensor() -> None:
    run, envelope = widened(6)
    assert isinstance(envelope.fact, LayerWidthModified)
    fills = [e.fill for e in envelope.fact.edits if isinstance(e, ResizeTensor) and e.fill is not None]
    digests = {fill.digest for fill in fills if fill.digest is not None}
    (flat,) = (run.session.vault.get(digest) for digest in digests)
    assert flat.ndim == 1
    assert max(fill.offset for fill in fills if fill.offset is not None) < len(flat)
