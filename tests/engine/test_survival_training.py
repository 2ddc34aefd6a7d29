"""Training goes on through surgery: schedules, mixed precision, checkpointing, memory formats, optimizers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, StepLR

from esper_es import Engine

from .survivors import CASES, SUBJECTS, assert_trains, loss_of, operate, output_of, step

EVERY_SURGERY = pytest.mark.parametrize(("name", "surgery"), CASES)
EVERY_MODEL = pytest.mark.parametrize("name", SUBJECTS)

SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "StepLR": lambda optimizer: StepLR(optimizer, 2, 0.5),
    "OneCycleLR": lambda optimizer: OneCycleLR(optimizer, 0.01, total_steps=20),
    "LambdaLR": lambda optimizer: LambdaLR(optimizer, lambda step: 0.9**step),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@EVERY_MODEL
def test_a_schedule_goes_on_as_if_nothing_had_happened(schedule: str, name: str, engine: Engine) -> None:
    subject = SUBJECTS[name]
    model = subject.build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = SCHEDULES[schedule](optimizer)
    other = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=0.01)
    undisturbed = SCHEDULES[schedule](other)
    run = subject.attach(engine, model, optimizer, scheduler=scheduler)
    rates, expected = [], []
    for surgery in ("wider", "residual", "skip", None):
        step(model, optimizer, subject.batch())
        scheduler.step()
        other.step()
        undisturbed.step()
        rates.append(scheduler.get_last_lr())
        expected.append(undisturbed.get_last_lr())
        if surgery:
            operate(subject, surgery, run)
    assert rates == expected
    assert_trains(run, optimizer)


@EVERY_SURGERY
def test_mixed_precision_with_a_scaler_goes_on(name: str, surgery: str, engine: Engine) -> None:
    subject = SUBJECTS[name]
    model = subject.build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    run = subject.attach(engine, model, optimizer, scaler=scaler)

    def train() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, subject.batch())
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
    assert_trains(run, optimizer)


REENTRANT = pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "non-reentrant"])


@pytest.mark.parametrize(
    ("name", "surgery", "reentrant"),
    [(*case, reentrant) for case in CASES for reentrant in (True, False)],
)
def test_gradients_under_checkpointing_are_those_without(
    reentrant: bool, name: str, surgery: str, engine: Engine
) -> None:
    subject = SUBJECTS[name]
    run = subject.attach(engine, subject.build())
    operate(subject, surgery, run)
    plain = copy.deepcopy(run.model).train()
    subject.recompute(run.model.train(), reentrant)
    batch = subject.batch()
    for model in (run.model, plain):
        loss_of(model, batch).backward()
    found = {key: value.grad for key, value in run.model.named_parameters()}
    expected = {key: value.grad for key, value in plain.named_parameters()}
    assert all(value is not None for value in expected.values())
    torch.testing.assert_close(found, expected)


@REENTRANT
@EVERY_MODEL
def test_surgery_on_a_model_that_is_trained_under_checkpointing(
    reentrant: bool, name: str, engine: Engine
) -> None:
    subject = SUBJECTS[name]
    model = subject.build().train()
    subject.recompute(model, reentrant)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    run = subject.attach(engine, model, optimizer)
    for surgery in ("wider", "residual", "skip"):
        step(model, optimizer, subject.batch())
        operate(subject, surgery, run)
    step(model, optimizer, subject.batch())
    assert_trains(run, optimizer)


def test_a_skip_inside_of_a_reentrant_checkpoint_gets_its_gradients(engine: Engine) -> None:
    subject = SUBJECTS["cnn"]
    run = subject.attach(engine, subject.build().train())
    assert run.surgeon.add_skip_connection(from_layer="block1.bn1", to_layer="block1.bn2").success
    plain = copy.deepcopy(run.model)
    subject.recompute(run.model, True)
    batch = subject.batch()
    for model in (run.model, plain):
        loss_of(model, batch).backward()
    torch.testing.assert_close(
        {key: p.grad for key, p in run.model.named_parameters()},
        {key: p.grad for key, p in plain.named_parameters()},
    )


@EVERY_SURGERY
def test_a_bf16_model_stays_one(name: str, surgery: str, engine: Engine) -> None:
    subject = SUBJECTS[name]
    model = subject.build().bfloat16()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    run = subject.attach(engine, model, optimizer)
    operate(subject, surgery, run)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    batch = {k: v.bfloat16() if v.is_floating_point() else v for k, v in subject.batch().items()}
    step(model, optimizer, batch)
    assert_trains(run, optimizer)


@pytest.mark.parametrize("surgery", SUBJECTS["cnn"].surgeries)
def test_a_channels_last_model_stays_one(surgery: str, engine: Engine) -> None:
    subject = SUBJECTS["cnn"]
    model = subject.build().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    run = subject.attach(engine, model, optimizer)
    step(model, optimizer, subject.batch())
    operate(subject, surgery, run)
    kernels = {key: p for key, p in model.named_parameters() if p.ndim == 4 and p.shape[-1] > 1}
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels.values())
    assert not [key for key, p in kernels.items() if p.is_contiguous()]
    batch = {"x": subject.batch()["x"].to(memory_format=torch.channels_last)}
    step(model, optimizer, batch)
    assert_trains(run, optimizer)


@EVERY_SURGERY
def test_a_surgery_deferred_in_mid_accumulation_meets_whole_steps_only(
    name: str, surgery: str, engine: Engine
) -> None:
    subject = SUBJECTS[name]
    model = subject.build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    run = subject.attach(engine, model, optimizer)
    for _ in range(2):
        optimizer.zero_grad()
        deferred = None
        for part in range(3):
            loss_of(model, subject.batch()).backward()
            if part == 1 and run.version < 4:
                assert subject.surgeries[surgery](run).check == "moment"
                deferred = run.at_boundary(subject.surgeries[surgery], run)
        optimizer.step()
    assert deferred is None or deferred.result.success
    assert_trains(run, optimizer)


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "AdamW foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "AdamW fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "AdamW amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "SGD foreach": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, foreach=True),
    "SGD fused": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, fused=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "NAdam foreach": lambda p: torch.optim.NAdam(p, lr=0.01, foreach=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@EVERY_MODEL
def test_an_optimizer_steps_on_after_all_surgeries(kind: str, name: str, engine: Engine) -> None:
    subject = SUBJECTS[name]
    model = subject.build()
    optimizer = OPTIMIZERS[kind](model.parameters())
    run = subject.attach(engine, model, optimizer)
    for surgery in ("wider", "skip", "residual", "removal"):
        step(model, optimizer, subject.batch())
        result = subject.surgeries[surgery](run)
        assert result.success or result.check in ("connection_end", "seed"), result.error
    step(model, optimizer, subject.batch())
    assert_trains(run, optimizer)
    batch = subject.batch()
    before = output_of(model, batch)
    assert before.isfinite().all()
