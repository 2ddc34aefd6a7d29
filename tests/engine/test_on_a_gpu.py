"""Surgery in training loops as they run on a GPU: half precision, captures under way, streams, compilers, memory."""

from __future__ import annotations

import copy
import gc
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from esper_es import Engine, Run, UsageError, fingerprint
from esper_es.tracing import trace

from .survivors import CASES, SUBJECTS, Subject, loss_of, operate, output_of

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
EVERY_SURGERY = pytest.mark.parametrize(("name", "surgery"), CASES)
EVERY_MODEL = pytest.mark.parametrize("name", SUBJECTS)
FORMATS = pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)

Batch = Mapping[str, torch.Tensor]


def on_gpu(batch: Batch) -> dict[str, torch.Tensor]:
    return {key: value.cuda() for key, value in batch.items()}


def attached(engine: Engine, subject: Subject, model: nn.Module, **terms: Any) -> Run:
    dtype = next(model.parameters()).dtype
    example = {k: v.to(dtype) if v.is_floating_point() else v for k, v in on_gpu(subject.batch()).items()}
    return engine.attach(model, "model", example, blueprint=subject.blueprint, **terms)


def steps(run: Run, subject: Subject, count: int = 1) -> None:
    optimizer = run.session.live.optimizer
    assert optimizer is not None
    for _ in range(count):
        optimizer.zero_grad()
        loss_of(run.model, on_gpu(subject.batch())).backward()
        optimizer.step()


@EVERY_MODEL
def test_a_trace_on_the_gpu_finds_what_one_on_the_cpu_finds(name: str) -> None:
    subject = SUBJECTS[name]
    model, batch = subject.build().eval(), subject.batch()
    here = trace(model, [((), batch)])
    there = trace(model.cuda(), [((), on_gpu(batch))])
    assert there.width_groups == here.width_groups


@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.parametrize("surgery", ["wider", "residual"])
def test_a_surgery_that_preserves_the_function_preserves_it_on_the_gpu(
    name: str, surgery: str, engine: Engine
) -> None:
    subject = SUBJECTS[name]
    run = attached(engine, subject, subject.build().cuda().eval())
    batch = on_gpu(subject.batch())
    before = output_of(run.model, batch)
    operate(subject, surgery, run)
    torch.testing.assert_close(output_of(run.model, batch), before, rtol=1e-5, atol=1e-5)


@EVERY_SURGERY
def test_half_precision_with_a_scaler_goes_on(name: str, surgery: str, engine: Engine) -> None:
    subject = SUBJECTS[name]
    model = subject.build().cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    scaler = torch.amp.GradScaler("cuda", init_scale=8.0, growth_interval=2)
    run = attached(engine, subject, model, optimizer=optimizer, scaler=scaler)

    def train() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.float16):
            loss = loss_of(model, on_gpu(subject.batch()))
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()

    train()
    operate(subject, surgery, run)
    train()
    train()
    assert scaler.get_scale() == 16.0
    assert all(bool(p.isfinite().all()) for p in model.parameters())


@EVERY_SURGERY
def test_every_surgery_is_undone_and_replayed_bit_for_bit(name: str, surgery: str, engine: Engine) -> None:
    subject = SUBJECTS[name]
    model = subject.build().cuda()
    run = attached(engine, subject, model, optimizer=torch.optim.Adam(model.parameters(), foreach=True))
    steps(run, subject, 2)
    home, state = run.capture(), run.state_fingerprint
    operate(subject, surgery, run)
    replayed = engine.replay("model")
    assert fingerprint(replayed) == run.fingerprint
    steps(run, subject, 2)
    assert run.rollback(home).success
    assert run.state_fingerprint == state


@FORMATS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_and_memory_format_stay(
    dtype: torch.dtype, memory_format: torch.memory_format, engine: Engine
) -> None:
    subject = SUBJECTS["cnn"]
    model = subject.build().to("cuda", dtype, memory_format=memory_format)
    run = attached(engine, subject, model)
    operate(subject, "wider", run)
    weight = model.get_parameter("block1.conv1.weight")
    assert weight.dtype is dtype
    assert weight.is_contiguous(memory_format=memory_format)
    assert weight.is_cuda


@EVERY_MODEL
def test_inductor_compiles_a_model_between_its_surgeries(name: str, engine: Engine) -> None:
    torch._dynamo.reset()
    subject = SUBJECTS[name]
    run = attached(engine, subject, subject.build().cuda().eval())
    compiled = torch.compile(run.model, fullgraph=True)
    batch = on_gpu(subject.batch())
    for surgery in ("wider", "skip", "residual"):
        output_of(compiled, batch)
        operate(subject, surgery, run)
        torch.testing.assert_close(
            output_of(compiled, batch), output_of(run.model, batch), rtol=1e-4, atol=1e-5
        )


@EVERY_MODEL
def test_a_capture_waits_for_the_steps_under_way(name: str, engine: Engine) -> None:
    subject = SUBJECTS[name]
    model = subject.build().cuda()
    run = attached(engine, subject, model, optimizer=torch.optim.SGD(model.parameters(), lr=0.01))
    busy = torch.randn(8192, 8192, device="cuda")
    for _ in range(20):
        busy = torch.tanh(busy @ busy)
    steps(run, subject)
    version = run.capture()
    torch.cuda.synchronize()
    assert fingerprint(engine.replay("model", version)) == fingerprint(model)


def test_training_on_a_stream_of_its_own_is_captured_and_operated_on_there(engine: Engine) -> None:
    subject = SUBJECTS["cnn"]
    model = subject.build().cuda()
    run = attached(engine, subject, model, optimizer=torch.optim.SGD(model.parameters(), lr=0.01))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        busy = torch.randn(8192, 8192, device="cuda")
        for _ in range(20):
            busy = torch.tanh(busy @ busy)
        steps(run, subject)
        operate(subject, "wider", run)
        steps(run, subject)
        version = run.capture()
    torch.cuda.synchronize()
    assert fingerprint(engine.replay("model", version)) == fingerprint(model)


def test_surgeries_and_rollbacks_leave_no_memory_behind(engine: Engine) -> None:
    subject = SUBJECTS["cnn"]
    model = subject.build().cuda()
    run = attached(engine, subject, model, optimizer=torch.optim.Adam(model.parameters()))
    steps(run, subject)
    home = run.capture()

    def round_trip() -> int:
        operate(subject, "wider", run)
        assert run.rollback(home).success
        gc.collect()
        return torch.cuda.memory_allocated()

    first = [round_trip() for _ in range(2)][-1]
    assert [round_trip() for _ in range(4)] == [first] * 4


def test_a_refused_surgery_leaves_no_memory_behind(engine: Engine) -> None:
    subject = SUBJECTS["llama"]
    run = attached(engine, subject, subject.build().cuda())
    gc.collect()
    before = torch.cuda.memory_allocated()
    result = run.surgeon.modify_layer_width(layer_name="model.layers.0.self_attn.q_proj", new_width=13)
    assert not result.success
    del result
    gc.collect()
    assert torch.cuda.memory_allocated() == before


def test_a_surgery_needs_little_more_room_than_a_copy_of_the_model(engine: Engine) -> None:
    model = nn.Sequential(nn.Linear(64, 2048), *(nn.Linear(2048, 2048) for _ in range(8)), nn.Linear(2048, 8))
    model.cuda()
    size = sum(parameter.nbytes for parameter in model.parameters())
    run = engine.attach(model, "model", (torch.randn(2, 64, device="cuda"),))
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    assert run.surgeon.modify_layer_width(layer_name="4", new_width=2100).success
    assert torch.cuda.max_memory_allocated() - before < 1.3 * size


@pytest.mark.parametrize("initialization", ["kaiming", "xavier", "net2wider", "gradmax"])
def test_new_units_of_every_kind_are_replayed_on_the_cpu(initialization: str, engine: Engine) -> None:
    subject = SUBJECTS["cnn"]
    run = attached(engine, subject, subject.build().cuda().train())
    batch = on_gpu(subject.batch())
    result = run.surgeon.modify_layer_width(
        layer_name="block1.conv1",
        new_width=9,
        initialization=initialization,
        loss=(lambda model: loss_of(model, batch)) if initialization == "gradmax" else None,
    )
    assert result.success, result.error
    assert fingerprint(engine.replay("model", device="cpu")) == run.fingerprint


def test_a_learned_bridge_fitted_on_the_gpu_is_replayed_on_the_cpu(engine: Engine) -> None:
    subject = SUBJECTS["cnn"]
    run = attached(engine, subject, subject.build().cuda())
    batches = [on_gpu(subject.batch()) for _ in range(2)]
    result = run.surgeon.remove_layer(layer_name="block1", bridge_strategy="learned", calibration=batches)
    assert result.success, result.error
    assert fingerprint(engine.replay("model", device="cpu")) == run.fingerprint


def test_an_average_of_the_weights_on_the_gpu_follows(engine: Engine) -> None:
    subject = SUBJECTS["cnn"]
    run = attached(engine, subject, subject.build().cuda())
    average = copy.deepcopy(run.model)
    run.follow(average)
    operate(subject, "wider", run)
    batch = on_gpu(subject.batch())
    torch.testing.assert_close(average.eval()(**batch), run.model.eval()(**batch))


def test_examples_on_another_device_than_the_model_are_refused(engine: Engine) -> None:
    subject = SUBJECTS["cnn"]
    with pytest.raises(UsageError, match="cuda"):
        engine.attach(subject.build().cuda(), "model", subject.batch(), blueprint=subject.blueprint)
