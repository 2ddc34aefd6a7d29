"""One model trained by two processes: what each of them does."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from pathlib import Path

import torch
import transformers
from attrs import frozen
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from esper_es import Engine, Run

WORLD = 2
LAYER = "model.layers.0.self_attn.v_proj"


@frozen
class Seen:
    """What one process saw.

    Attributes:
        refused: the rule that refused a surgery, and one that refused a rollback, while the model was wrapped.
        changed: whether the surgery was done, in this process, once it was not.
        width: of the layer afterwards.
        fingerprints: of the model: before the surgery, after it, and trained on.
        averages: digests of the average's bytes at the same times.
        mine: digest of the gradients that this process's data give by themselves in the end.
    """

    refused: tuple[str | None, str | None]
    changed: bool
    width: int
    fingerprints: tuple[str, ...]
    averages: tuple[str, ...]
    mine: str


def mixtral() -> nn.Module:
    """A mixture of experts in bfloat16 that recomputes its activations in the backward pass."""
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        use_cache=False,
    )
    model: nn.Module = transformers.MixtralForCausalLM(config).to(torch.bfloat16)
    model.gradient_checkpointing_enable()
    return model.train()


def trained_together(rank: int, folder: Path) -> Seen:
    """Train in step with the other processes, the first of which decides on a surgery."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=WORLD,
        timeout=timedelta(minutes=2),
    )
    try:
        return _trained_together(rank, f"sqlite:///{folder / 'runs.db'}")
    finally:
        distributed.destroy_process_group()


def _trained_together(rank: int, url: str) -> Seen:
    model = mixtral()
    average = AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    names = [f"mixtral-{number}" for number in range(WORLD)]
    with Engine(url) as engine:
        example = {"input_ids": torch.arange(2, 14).reshape(2, 6)}
        if rank:
            distributed.barrier()
        run = engine.attach(model, names[rank], example, optimizer)
        if not rank:
            distributed.barrier()
        run.follow(average)
        wrapped = DistributedDataParallel(model)
        _train(wrapped, optimizer, average, rank, range(3))
        seen = [(run.fingerprint, _digest(average.parameters()))]
        widened = run.surgeon.modify_layer_width(layer_name=LAYER, new_width=3, unit="units")
        refused = (widened.check, run.rollback(2).check)
        del wrapped
        changed = _changed(engine, run, rank, names[0])
        seen.append((run.fingerprint, _digest(average.parameters())))
        _train(DistributedDataParallel(model), optimizer, average, rank, range(3, 6))
        seen.append((run.fingerprint, _digest(average.parameters())))
        optimizer.zero_grad()
        _loss(model, rank, 6).backward()
        mine = _digest(p.grad for p in model.parameters() if p.grad is not None)
        width = model.get_submodule(LAYER).get_parameter("weight").shape[0]
    fingerprints, averages = zip(*seen, strict=True)
    return Seen(refused, changed, width, fingerprints, averages, mine)


def _changed(engine: Engine, run: Run, rank: int, leader: str) -> bool:
    """The first process decides; the others repeat what its log says."""
    if rank == 0:
        result = run.surgeon.modify_layer_width(layer_name=LAYER, new_width=3, unit="units")
        distributed.barrier()
        distributed.barrier()
        return result.success
    distributed.barrier()
    results = engine.replay_surgeries(leader, onto=run)
    distributed.barrier()
    return [result.success for result in results] == [True]


def _train(
    wrapped: nn.Module, optimizer: torch.optim.Optimizer, average: AveragedModel, rank: int, steps: range
) -> None:
    for step in steps:
        optimizer.zero_grad()
        _loss(wrapped, rank, step).backward()
        optimizer.step()
        average.update_parameters(wrapped.module)
    optimizer.zero_grad()


def _loss(model: nn.Module, rank: int, step: int) -> Tensor:
    """Every process has other data."""
    generator = torch.Generator().manual_seed(100 * step + rank)
    tokens = torch.randint(2, 97, (2, 6), generator=generator)
    loss: Tensor = model(input_ids=tokens, labels=tokens).loss
    return loss


def _digest(tensors: object) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:  # type: ignore[attr-defined]
        digest.update(tensor.detach().float().numpy().tobytes())
    return digest.hexdigest()
