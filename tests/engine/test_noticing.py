"""A version means one state: what moves a run without an optimizer step is noticed, and a fact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from models import CONV1D_NET, NESTED_MLP
from torch import nn
from training import adam, attached, optimizer_of, part_of, train_run

from esper_es import CapturePolicy, Engine, Run, fingerprint
from esper_es.domain.facts import RolledBack, TrainingContinued

Act = Callable[[Run], Any]


def weight(run: Run) -> nn.Parameter:
    return run.model.get_parameter("0.weight")


def born(engine: Engine, **terms: Any) -> Run:
    """A run of a model with BatchNorm and Dropout, under Adam and a schedule, that was captured after a step."""
    model = CONV1D_NET.build()
    optimizer = adam(model)
    run = engine.attach(
        model,
        name="model",
        example_inputs=(CONV1D_NET.batch(),),
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.StepLR(optimizer, 2),
        **terms,
    )
    train_run(run, CONV1D_NET)
    run.capture()
    return run


@torch.no_grad()
def clamped(run: Run) -> None:
    weight(run).clamp_(-0.01, 0.01)


def loaded(run: Run) -> None:
    run.model.load_state_dict(CONV1D_NET.build().state_dict())


def replaced(run: Run) -> None:
    del part_of(run, "0").bias
    part_of(run, "0").bias = nn.Parameter(torch.zeros(4))
    optimizer_of(run).param_groups[0]["params"] = [*run.model.parameters()]


def averaged(run: Run) -> None:
    with torch.inference_mode():
        for parameter in run.model.parameters():
            parameter.lerp_(torch.ones_like(parameter), 0.1)


def swapped(run: Run) -> None:
    weight(run).data = torch.ones_like(weight(run))


def batch(run: Run) -> None:
    with torch.no_grad():
        run.model.train()(torch.ones(4, *CONV1D_NET.shape))


def closed(run: Run) -> None:
    run.close()
    train_run(run, CONV1D_NET)


def momentless(run: Run) -> None:
    optimizer_of(run).state[weight(run)]["exp_avg"].zero_()


def slower(run: Run) -> None:
    optimizer_of(run).param_groups[0]["lr"] = 1e-5


MOVES: dict[str, tuple[Act, tuple[str, ...]]] = {
    "a clamp": (clamped, ("module",)),
    "an initialisation": (lambda run: nn.init.zeros_(weight(run)), ("module",)),
    "a state dict": (loaded, ("module", "generators")),
    "another parameter": (replaced, ("module", "optimizer")),
    "an average swapped in": (averaged, ("module",)),
    "another storage": (swapped, ("module",)),
    "a frozen layer": (lambda run: weight(run).requires_grad_(False), ("module",)),
    "a batch through BatchNorm and Dropout": (batch, ("module", "generators")),
    "steps behind a closed run": (closed, ("module", "optimizer", "generators")),
    "a moment written by hand": (momentless, ("optimizer",)),
    "a learning rate written by hand": (slower, ("optimizer",)),
    "a step of the scheduler": (lambda run: run.session.live.scheduler.step(), ("scheduler",)),
    "evaluation mode": (lambda run: run.model.eval(), ("modes",)),
    "random numbers of torch": (lambda run: torch.rand(2), ("generators",)),
    "random numbers of NumPy": (lambda run: np.random.rand(), ("generators",)),
}
EVERY_MOVE = pytest.mark.parametrize("move", MOVES)
ASIDE = ("evaluation mode", "random numbers of torch", "random numbers of NumPy")

CALLS: dict[str, Act] = {
    "an epoch": lambda run: run.epoch_end(),
    "a seed": lambda run: run.seeds.plant("seed", "0"),
    "a refusal": lambda run: run.seeds.advance("nobody"),
    "a surgery": lambda run: run.surgeon.modify_layer_width(layer_name="0", new_width=6),
    "a capture": lambda run: run.capture(),
    "a rollback": lambda run: run.rollback(2),
}


def last_moved(engine: Engine) -> TrainingContinued | None:
    found = [e.fact for e in engine.history("model") if isinstance(e.fact, TrainingContinued)]
    return found[-1] if found and found[-1].moved else None


@EVERY_MOVE
def test_what_moves_without_a_step_is_named_at_the_next_call(move: str, engine: Engine) -> None:
    run = born(engine)
    act, parts = MOVES[move]
    act(run)
    run.epoch_end()
    fact = last_moved(engine)
    assert fact is not None
    assert fact.moved == parts


@pytest.mark.parametrize("call", CALLS)
def test_every_call_notices_before_it_records(call: str, engine: Engine) -> None:
    run = born(engine)
    head = run.version
    clamped(run)
    CALLS[call](run)
    assert engine.history("model")[head].fact == TrainingContinued(step=1, moved=("module",))


@pytest.mark.parametrize("call", CALLS)
def test_a_run_that_did_not_move_is_not_said_to_have(call: str, engine: Engine) -> None:
    run = born(engine)
    for _ in range(3):
        CALLS[call](run)
    assert last_moved(engine) is None


@EVERY_MOVE
def test_the_version_before_is_restored_as_it_was_before(move: str, engine: Engine) -> None:
    run = born(engine)
    head, before = run.version, run.state_fingerprint
    MOVES[move][0](run)
    run.seeds.plant("seed", "0")
    assert run.rollback(head).success
    assert run.state_fingerprint == before


@EVERY_MOVE
def test_what_it_moved_to_is_not_said_to_be_restorable(move: str, engine: Engine) -> None:
    run = born(engine)
    MOVES[move][0](run)
    run.seeds.plant("seed", "0")
    assert run.rollback(run.version).check == "no_capture"
    assert engine.replay("model").esper_replay.exact == (move in ASIDE)  # type: ignore[union-attr]


def test_what_it_moved_to_can_be_captured(engine: Engine) -> None:
    run = born(engine)
    clamped(run)
    version, moved = run.capture(), run.state_fingerprint
    train_run(run, CONV1D_NET)
    assert run.rollback(version).success
    assert run.state_fingerprint == moved


@pytest.mark.parametrize("call", ["a capture", "a surgery", "a rollback"])
def test_a_write_that_no_version_counter_saw_is_found_by_the_next_capture(call: str, engine: Engine) -> None:
    run = born(engine)
    head, seen = run.version, run.fingerprint
    weight(run).data.add_(1.0)
    CALLS[call](run)
    assert engine.history("model")[head].fact == TrainingContinued(step=1, moved=("module",))
    assert fingerprint(engine.replay("model", head)) == seen


def test_a_step_of_training_compares_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    run = born(engine)
    train_run(run, CONV1D_NET)
    assert run.session.mark is None
    version = run.version
    train_run(run, CONV1D_NET, 3)
    assert (run.version, run.session.mark) == (version, None)


UNMOVED: dict[str, Act] = {
    "a planted seed": lambda run: run.seeds.plant("seed", "0"),
    "a seed that trains": lambda run: (
        run.seeds.plant("seed", "0"),
        run.seeds.germinate("seed", "lora"),
        run.seeds.advance("seed"),
    ),
    "a seed that blends": lambda run: (
        run.seeds.plant("seed", "0"),
        run.seeds.germinate("seed", "lora"),
        run.seeds.advance("seed"),
        run.epoch_end(),
        run.seeds.advance("seed"),
        run.epoch_end(),
    ),
    "a refusal": lambda run: run.seeds.advance("nobody"),
    "an idle epoch": lambda run: run.epoch_end({"score": 0.5}),
    "captures given up": lambda run: (run.capture(), run.capture(), run.capture()),
}


@pytest.mark.parametrize("what", UNMOVED)
def test_what_moves_no_byte_leaves_the_version_restorable(what: str, engine: Engine) -> None:
    run = born(engine, capture=CapturePolicy(keep_last=2))
    UNMOVED[what](run)
    version, state, seeds = run.version, run.state_fingerprint, dict(run.state.seeds)
    assert fingerprint(engine.replay("model")) == run.fingerprint
    train_run(run, CONV1D_NET)
    assert run.rollback(version).success
    assert (run.state_fingerprint, dict(run.state.seeds)) == (state, seeds)


@pytest.mark.parametrize("what", UNMOVED)
def test_an_idle_run_resumes_without_a_rollback(what: str, url: str) -> None:
    with Engine(url) as engine:
        run = born(engine, capture=CapturePolicy(keep_last=2))
        UNMOVED[what](run)
        state, seeds = run.state_fingerprint, dict(run.state.seeds)
    with Engine(url) as engine:
        run = resumed(engine)
        assert (run.state_fingerprint, dict(run.state.seeds)) == (state, seeds)
        assert not any(isinstance(e.fact, RolledBack) for e in engine.history("model"))


@pytest.mark.parametrize("move", ASIDE)
def test_an_idle_run_keeps_its_seeds_though_generators_or_flags_moved(move: str, url: str) -> None:
    with Engine(url) as engine:
        run = born(engine)
        captured = run.state_fingerprint
        MOVES[move][0](run)
        run.seeds.plant("seed", "0")
    with Engine(url) as engine:
        run = resumed(engine)
        assert run.seeds["seed"].stage == "DORMANT"
        assert run.state_fingerprint == captured
        assert run.rollback(run.version).success


def resumed(engine: Engine) -> Run:
    model = CONV1D_NET.build()
    optimizer = adam(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    return engine.attach(
        model, name="model", example_inputs=(CONV1D_NET.batch(),), optimizer=optimizer, scheduler=scheduler
    )


def test_surgeries_of_an_idle_run_need_no_captures_of_their_own(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam, capture=CapturePolicy(before_structural_change=False))
    train_run(run, NESTED_MLP)
    run.capture()
    states = {}
    for width in (9, 10, 11):
        assert run.surgeon.modify_layer_width(layer_name="0", new_width=width).success
        states[run.version] = run.state_fingerprint
    train_run(run, NESTED_MLP)
    for version, state in states.items():
        assert run.rollback(version).success
        assert run.state_fingerprint == state
