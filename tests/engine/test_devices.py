"""Logs travel between machines with a GPU and without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import CONV_NET, NESTED_MLP, Zoolet
from training import adam, attached, optimizer_of

import esper_es.projections.live.rng as rng
import esper_es.projections.live.snapshot as snapshot
from esper_es import Engine, Run, fingerprint
from esper_es.domain.facts import RolledBack

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("devices", [1, 8])
def test_a_capture_made_beside_gpus_is_restored_where_there_are_none(
    devices: int, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def beside_gpus() -> dict[str, Any]:
        return {**rng.capture_rng(), "cuda": [torch.zeros(16, dtype=torch.uint8) for _ in range(devices)]}

    run = attached(engine, NESTED_MLP, adam)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(snapshot, "capture_rng", beside_gpus)
        version = run.capture()
    before = run.fingerprint
    with torch.no_grad():
        run.model.get_parameter("0.weight").zero_()
    result = run.rollback(version)
    assert result.success
    assert run.fingerprint == before
    fact = engine.history("model")[-1].fact
    assert isinstance(fact, RolledBack)
    assert fact.expected_fingerprint is None
    assert fact.left_out == tuple(f"cuda:{device}: not here" for device in range(devices))
    assert result.details["left_out"] == [*fact.left_out]
    assert run.version not in run.state.restorable


def on_gpu(engine: Engine, zoolet: Zoolet, name: str = "model", **optimizer: Any) -> Run:
    model = zoolet.build().cuda()
    return engine.attach(
        model,
        name=name,
        example_inputs=(zoolet.batch().cuda(),),
        optimizer=torch.optim.AdamW(model.parameters(), **optimizer),
        blueprint=zoolet.blueprint,
    )


def train_on_gpu(run: Run, zoolet: Zoolet, steps: int = 2) -> None:
    for _ in range(steps):
        optimizer_of(run).zero_grad()
        x = torch.randn(4, *zoolet.shape, device="cuda")
        torch.autograd.backward(run.model(x).square().mean())
        optimizer_of(run).step()


def operated_on(run: Run) -> None:
    assert run.surgeon.modify_layer_width(layer_name="conv1", new_width=9).success
    assert run.surgeon.add_skip_connection(from_layer="conv1", to_layer="conv3").success
    assert run.surgeon.remove_layer(layer_name="conv2", bridge_strategy="learned").success
    run.seeds.plant("seed", "conv3")
    assert run.seeds.germinate("seed", "conv_small").success


@pytest.mark.cuda
@CUDA
def test_a_log_of_the_cpu_is_replayed_on_the_gpu(engine: Engine) -> None:
    run = attached(engine, CONV_NET, adam)
    operated_on(run)
    replayed = engine.replay("model", device="cuda")
    assert {parameter.device.type for parameter in replayed.parameters()} == {"cuda"}
    assert fingerprint(replayed) == run.fingerprint


@pytest.mark.cuda
@CUDA
def test_a_log_of_the_gpu_is_replayed_on_the_cpu(engine: Engine) -> None:
    run = on_gpu(engine, CONV_NET)
    train_on_gpu(run, CONV_NET)
    operated_on(run)
    replayed = engine.replay("model")
    assert {parameter.device.type for parameter in replayed.parameters()} == {"cpu"}
    assert fingerprint(replayed) == run.fingerprint


@pytest.mark.cuda
@CUDA
def test_everything_new_stands_on_the_gpu_of_its_neighbours(engine: Engine) -> None:
    run = on_gpu(engine, CONV_NET)
    train_on_gpu(run, CONV_NET)
    operated_on(run)
    train_on_gpu(run, CONV_NET)
    tensors = (*run.model.parameters(), *run.model.buffers())
    assert {tensor.device.type for tensor in tensors} == {"cuda"}


@pytest.mark.cuda
@CUDA
@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"fused": True}, {"capturable": True}], ids=str)
def test_a_rollback_on_the_gpu_restores_optimizer_and_generators(
    options: dict[str, Any], engine: Engine
) -> None:
    run = on_gpu(engine, CONV_NET, **options)
    train_on_gpu(run, CONV_NET)
    version, state = run.capture(), run.state_fingerprint
    train_on_gpu(run, CONV_NET)
    drawn_after = run.state_fingerprint
    assert run.rollback(version).success
    assert run.state_fingerprint == state
    devices = {
        value.device.type
        for entries in optimizer_of(run).state.values()
        for key, value in entries.items()
        if key != "step"
    }
    assert devices == {"cuda"}
    train_on_gpu(run, CONV_NET)
    assert run.state_fingerprint == drawn_after


@pytest.mark.cuda
@CUDA
@pytest.mark.parametrize(("first", "second"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_run_resumes_on_another_device(first: str, second: str, url: str) -> None:
    def resumed(engine: Engine, device: str) -> Run:
        model = CONV_NET.build().to(device)
        return engine.attach(
            model,
            name="model",
            example_inputs=(CONV_NET.batch().to(device),),
            optimizer=torch.optim.Adam(model.parameters()),
            blueprint=CONV_NET.blueprint,
        )

    with Engine(url) as engine:
        run = resumed(engine, first)
        run.surgeon.modify_layer_width(layer_name="conv1", new_width=9)
        version, seen = run.capture(), run.fingerprint
    with Engine(url) as engine:
        run = resumed(engine, second)
        assert run.fingerprint == seen
        assert {parameter.device.type for parameter in run.model.parameters()} == {second}
        x = torch.randn(4, *CONV_NET.shape, device=second)
        torch.autograd.backward(run.model(x).square().mean())
        optimizer_of(run).step()
        assert run.rollback(version).success
        assert run.fingerprint == seen
