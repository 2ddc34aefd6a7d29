"""Two models, and what is done to them, for the tests of what survives surgery."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from attrs import frozen
from torch import nn
from torch.utils.checkpoint import checkpoint

from esper_es import Engine, Run, SurgeryResult, blueprint

Surgery = Callable[[Run], SurgeryResult]


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(x + self.bn2(self.conv2(out)))


class BlockNet(nn.Module):
    """A residual CNN that can recompute its blocks in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.block1 = Block(6)
        self.block2 = Block(6)
        self.head = nn.Linear(6, 4)
        self.recompute: bool | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        for block in (self.block1, self.block2):
            x = block(x) if self.recompute is None else self._recomputed(block, x, self.recompute)
        scores: torch.Tensor = self.head(x.mean((2, 3)))
        return scores

    def _recomputed(self, block: nn.Module, x: torch.Tensor, reentrant: bool) -> torch.Tensor:
        result: torch.Tensor = checkpoint(block, x, use_reentrant=reentrant)  # type: ignore[assignment]
        return result


blueprint("tests/block-net")(BlockNet)


def llama() -> nn.Module:
    """A tiny model of transformers, with grouped queries."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=40,
        max_position_embeddings=32,
    )
    return LlamaForCausalLM(config)  # type: ignore[no-any-return, no-untyped-call]


def recompute_cnn(model: Any, reentrant: bool) -> None:
    model.recompute = reentrant


def recompute_llama(model: Any, reentrant: bool) -> None:
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})


def pixels() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(4, 3, 6, 6)}


def tokens() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(0, 40, (2, 8))}


def fitting(run: Run, layer: nn.Module) -> nn.Module:
    """Return a new layer of the model's dtype."""
    return layer.to(next(run.model.parameters()).dtype)


@frozen(eq=False)
class Subject:
    """A model under surgery.

    Attributes:
        build: makes one.
        batch: makes inputs, as keyword arguments.
        blueprint: its name; None where the engine recognizes the model.
        surgeries: by name.
        recompute: turns gradient checkpointing on.
        untouched: path of a layer that no surgery touches.
    """

    build: Callable[[], nn.Module]
    batch: Callable[[], dict[str, torch.Tensor]]
    blueprint: str | None
    surgeries: Mapping[str, Surgery]
    recompute: Callable[[nn.Module, bool], None]
    untouched: str

    def attach(self, engine: Engine, model: nn.Module, optimizer: Any = None, **parts: Any) -> Run:
        dtype = next(model.parameters()).dtype
        example = {k: v.to(dtype) if v.is_floating_point() else v for k, v in self.batch().items()}
        return engine.attach(model, "model", example, optimizer, blueprint=self.blueprint, **parts)


SUBJECTS: dict[str, Subject] = {
    "cnn": Subject(
        BlockNet,
        pixels,
        "tests/block-net",
        {
            "wider": lambda run: run.surgeon.modify_layer_width(layer_name="block1.conv1", new_width=9),
            "narrower": lambda run: run.surgeon.modify_layer_width(layer_name="block1.conv1", new_width=4),
            "insertion": lambda run: run.surgeon.add_layer(
                after_layer="block1.bn1", new_layer=fitting(run, nn.Conv2d(6, 6, 1)), layer_name="new"
            ),
            "residual": lambda run: run.surgeon.add_layer(
                after_layer="block1",
                new_layer=fitting(run, nn.Conv2d(6, 6, 1)),
                layer_name="new",
                connection_type="residual",
            ),
            "skip": lambda run: run.surgeon.add_skip_connection(from_layer="stem", to_layer="block2"),
            "removal": lambda run: run.surgeon.remove_layer(layer_name="block1"),
        },
        recompute_cnn,
        "head",
    ),
    "llama": Subject(
        llama,
        tokens,
        None,
        {
            "wider": lambda run: run.surgeon.modify_layer_width(
                layer_name="model.layers.0.mlp.gate_proj", new_width=30
            ),
            "narrower": lambda run: run.surgeon.modify_layer_width(
                layer_name="model.layers.0.mlp.gate_proj", new_width=20
            ),
            "insertion": lambda run: run.surgeon.add_layer(
                after_layer="model.layers.0.mlp", new_layer=fitting(run, nn.Linear(16, 16)), layer_name="new"
            ),
            "residual": lambda run: run.surgeon.add_layer(
                after_layer="model.layers.0",
                new_layer=fitting(run, nn.Linear(16, 16)),
                layer_name="new",
                connection_type="residual",
            ),
            "skip": lambda run: run.surgeon.add_skip_connection(
                from_layer="model.layers.0.mlp", to_layer="model.layers.1.mlp"
            ),
            "removal": lambda run: run.surgeon.remove_layer(layer_name="model.layers.0.mlp"),
        },
        recompute_llama,
        "lm_head",
    ),
}

CASES = [(name, surgery) for name, subject in SUBJECTS.items() for surgery in subject.surgeries]


def output_of(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    result = model(**batch)
    return result if isinstance(result, torch.Tensor) else result.logits


def loss_of(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return output_of(model, batch).float().square().mean()


def step(model: nn.Module, optimizer: Any, batch: Mapping[str, torch.Tensor]) -> float:
    """Take a training step as most loops do; return the loss."""
    optimizer.zero_grad()
    loss = loss_of(model, batch)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def operate(subject: Subject, surgery: str, run: Run) -> None:
    result = subject.surgeries[surgery](run)
    assert result.success, result.error


def assert_trains(run: Run, optimizer: Any) -> None:
    """Check that all parameters are in the optimizer, finite, and moved by steps."""
    members = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(members) == sorted(id(p) for p in run.model.parameters())
    assert all(bool(p.isfinite().all()) for p in run.model.parameters())
