"""Snapshots: everything a run needs to go on, taken and put back."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import numpy as np
import pytest
import torch
from models import nested_cnn, nested_mlp
from torch import nn

from esper_es.domain.errors import IntegrityFailure, UsageError
from esper_es.fingerprints import state_fingerprint
from esper_es.projections.live.journal import Journal
from esper_es.projections.live.live import Live
from esper_es.projections.live.rng import preserved_rng
from esper_es.projections.live.snapshot import Snapshot, put_back, take


def trained() -> Live:
    model = nested_cnn()
    optimizer = torch.optim.AdamW(model.parameters(), amsgrad=True)
    live = Live(
        model,
        optimizer,
        torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5),
        torch.amp.GradScaler("cpu", init_scale=4.0),
    )
    step(live)
    return live


def step(live: Live) -> None:
    assert live.optimizer is not None
    live.module(torch.randn(4, 2, 6, 6)).square().sum().backward()
    live.optimizer.step()
    live.optimizer.zero_grad()
    live.scheduler.step()
    live.scaler.scale(torch.ones(()))
    live.scaler.update(2.0 * live.scaler.get_scale())


def kept(live: Live) -> Snapshot:
    """Take a snapshot whose tensors no longer belong to the live objects."""
    snapshot = take(live)
    return Snapshot({name: tensor.clone() for name, tensor in snapshot.tensors.items()}, snapshot.document)


def test_put_back_restores_all_of_it() -> None:
    live = trained()
    snapshot, before = kept(live), state_fingerprint(live)
    step(live)
    live.module.eval().requires_grad_(False)
    random.random(), np.random.rand(), torch.rand(1)
    put_back(live, snapshot.document, lambda name: snapshot.tensors[name].clone(), Journal())
    assert state_fingerprint(live) == before


def test_undone_all_of_it_is_as_before_the_restoration() -> None:
    live = trained()
    snapshot = kept(live)
    step(live)
    after = state_fingerprint(live)
    journal = Journal()
    put_back(live, snapshot.document, lambda name: snapshot.tensors[name].clone(), journal)
    journal.undo()
    assert state_fingerprint(live) == after


def test_taking_a_snapshot_changes_nothing_and_draws_nothing() -> None:
    live = trained()
    before = state_fingerprint(live)
    take(live)
    assert state_fingerprint(live) == before


def fresh(**parts: Any) -> Live:
    model = nested_cnn()
    optimizer = torch.optim.AdamW(model.parameters(), amsgrad=True)
    known = {
        "optimizer": optimizer,
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5),
        "scaler": torch.amp.GradScaler("cpu"),
    }
    return Live(model, **{**known, **parts})


@pytest.mark.parametrize("part", ["optimizer", "scheduler", "scaler"])
def test_a_run_that_lacks_a_part_is_told_which(part: str) -> None:
    snapshot = kept(trained())
    with pytest.raises(UsageError, match=f"no {part}, the captured one had one"):
        put_back(fresh(**{part: None}), snapshot.document, snapshot.tensors.__getitem__, Journal())


def test_a_run_with_another_kind_of_part_is_told_both() -> None:
    snapshot = kept(trained())
    model = nested_cnn()
    live = Live(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(UsageError, match="is a SGD, the captured one was a AdamW"):
        put_back(live, snapshot.document, snapshot.tensors.__getitem__, Journal())


def test_a_module_of_other_tensors_is_damage() -> None:
    snapshot = kept(trained())
    with pytest.raises(IntegrityFailure, match="differ in the tensors"):
        put_back(Live(nested_mlp()), snapshot.document, snapshot.tensors.__getitem__, Journal())


def test_a_snapshot_of_another_format_is_refused() -> None:
    live = trained()
    snapshot = kept(live)
    with pytest.raises(IntegrityFailure, match="format 99, 1 was expected"):
        put_back(live, {**snapshot.document, "format": 99}, snapshot.tensors.__getitem__, Journal())


def test_an_optimizer_over_strangers_is_refused() -> None:
    stranger = nn.Linear(2, 2)
    with pytest.raises(UsageError, match="group 0 holds 2 parameters that are not in the model"):
        take(Live(nested_mlp(), torch.optim.SGD(stranger.parameters(), lr=0.1)))


def test_a_schedule_that_needs_pickle_is_refused() -> None:
    model = nested_mlp()

    class Odd:
        def state_dict(self) -> dict[str, object]:
            return {"callback": print}

        def load_state_dict(self, state: dict[str, object]) -> None:
            raise AssertionError

    with pytest.raises(UsageError, match="scheduler/callback is a builtin_function_or_method"):
        take(Live(model, None, Odd()))


def test_generators_are_preserved_through_an_error() -> None:
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    expected = (random.random(), np.random.rand(), float(torch.rand(())))
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    with contextlib.suppress(RuntimeError), preserved_rng():
        random.random(), np.random.rand(), torch.rand(3)
        raise RuntimeError
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == expected
