"""How many bytes the fact of a surgery takes in the log."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from esper_es import Engine, Run
from esper_es.domain.envelope import Envelope
from esper_es.ledger.codec import encode


def fact_of_width(engine: Engine, run: Run, layer: str, width: int) -> Envelope:
    """Change a width; return its fact."""
    done = run.surgeon.modify_layer_width(layer_name=layer, new_width=width)
    assert done.success, done.error
    return engine.history("model")[run.version - 1]


def size(envelope: Envelope) -> int:
    return len(encode(envelope)[1])


def test_units_scattered_over_a_layer_are_written_once() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 3072), nn.ReLU(), nn.Linear(3072, 8))
    with Engine() as engine:
        run = engine.attach(model, "model", (torch.randn(4, 8),))
        assert size(fact_of_width(engine, run, "0", 2500)) < 8_000


def test_a_stream_through_every_block_takes_few_bytes_for_each() -> None:
    """Digests and seeds of GPT-2 small: as many blocks and tensors, narrower ones; biases as after training."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=97, n_positions=16, n_embd=24, n_layer=12, n_head=2, bos_token_id=0, eos_token_id=1
    )
    model = transformers.GPT2LMHeadModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    with Engine() as engine:
        tokens = {"input_ids": torch.randint(97, (2, 8))}
        run = engine.attach(model, "model", tokens, torch.optim.Adam(model.parameters()))
        assert size(fact_of_width(engine, run, "transformer.wte", 28)) < 13_500
