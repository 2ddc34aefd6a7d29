"""Operations that fail in the middle: nothing is half-changed, and the error says what is wrong."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models import CONV_NET, NESTED_MLP, Zoolet
from torch import nn
from training import adam, attached, train_run

from esper_es import (
    AlphaSchedule,
    CapturePolicy,
    Engine,
    IntegrityFailure,
    LedgerError,
    MissingTensorError,
    Run,
    VaultError,
    blueprint,
    failpoints,
)
from esper_es.projections.live.describe import describe
from esper_es.vault import Vault

from .photograph import differences, photograph

POINTS = (
    "operation.planned",
    "operation.validated",
    "vault.hashed",
    "vault.writing",
    "vault.synced",
    "capture.stored",
    "operation.applied",
    "ledger.appending",
    "ledger.inserted",
    "ledger.projected",
)

OPERATIONS: dict[str, Callable[[Run], object]] = {
    "width": lambda run: run.surgeon.modify_layer_width(layer_name="conv1", new_width=9),
    "insertion": lambda run: run.surgeon.add_layer(
        after_layer="conv1",
        new_layer={"type": "conv2d", "in_channels": 6, "out_channels": 6},
        layer_name="new",
    ),
    "removal": lambda run: run.surgeon.remove_layer(layer_name="conv2", bridge_strategy="learned"),
    "skip": lambda run: run.surgeon.add_skip_connection(from_layer="conv1", to_layer="conv3"),
    "germination": lambda run: run.seeds.germinate("resting", "bottleneck"),
    "cull": lambda run: run.seeds.cull("seed"),
}

PLAIN_OPERATIONS: dict[str, Callable[[Run], object]] = {
    "alpha": lambda run: run.seeds.set_alpha("seed", 0.7),
    "epoch": lambda run: run.epoch_end({"score": 0.5}),
    "rollback": lambda run: run.rollback(2),
    "capture": lambda run: run.capture(),
}

NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


def eventful(engine: Engine) -> Run:
    """A run with the gradients of its last step, a skip connection, a blending and a resting seed, and a schedule."""
    model = CONV_NET.build()
    optimizer = adam(model)
    run = engine.attach(
        model,
        name="model",
        example_inputs=(CONV_NET.batch(),),
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.StepLR(optimizer, 2),
        blueprint=CONV_NET.blueprint,
    )
    run.surgeon.add_skip_connection(from_layer="conv2", to_layer="conv3")
    run.seeds.plant("resting", "conv1")
    run.seeds.plant("seed", "conv3")
    run.seeds.germinate("seed", "lora")
    run.seeds.advance("seed")
    train_run(run, CONV_NET, 2)
    run.epoch_end({"score": 1.0})
    run.seeds.advance("seed", schedule=AlphaSchedule(epochs=3))
    return run


BREAKS = [
    *(("width", point) for point in POINTS),
    *((name, point) for name in list(OPERATIONS)[1:] for point in ("operation.applied", "ledger.projected")),
]


@pytest.mark.parametrize(("operation", "point"), BREAKS)
def test_a_structural_change_that_breaks_leaves_everything_as_it_was(
    operation: str, point: str, url: str
) -> None:
    with Engine(url) as engine:
        run = eventful(engine)
        before, version = photograph(run), run.version
        with failpoints.raising(point, NO_SPACE), pytest.raises((OSError, VaultError), match="No space left"):
            OPERATIONS[operation](run)
        assert (differences(before, photograph(run)), run.version) == ([], version)
        assert engine.state("model") == run.state


@pytest.mark.parametrize(
    "point", ["operation.applied", "ledger.inserted", "restore.loaded", "restore.applied"]
)
@pytest.mark.parametrize("operation", PLAIN_OPERATIONS)
def test_any_other_change_that_breaks_leaves_everything_as_it_was(
    operation: str, point: str, url: str
) -> None:
    with Engine(url) as engine:
        run = eventful(engine)
        before, version = photograph(run), run.version
        try:
            with failpoints.raising(point, NO_SPACE):
                PLAIN_OPERATIONS[operation](run)
        except OSError:
            assert (differences(before, photograph(run)), run.version) == ([], version)
        assert engine.state("model") == run.state
        assert describe(run.model).fingerprint == run.architecture.fingerprint


def test_after_a_full_disk_the_same_surgery_succeeds_on_an_emptied_one(url: str) -> None:
    with Engine(url) as engine:
        run = eventful(engine)
        with failpoints.raising("vault.writing", NO_SPACE), pytest.raises((OSError, VaultError)):
            OPERATIONS["width"](run)
        assert run.surgeon.modify_layer_width(layer_name="conv1", new_width=9).success


def test_a_log_that_cannot_be_written_does_not_stop_training(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    run = attached(engine, NESTED_MLP, adam)
    with failpoints.raising("ledger.appending", LedgerError("the database is away")):
        train_run(run, NESTED_MLP, 2)
    assert "the database is away" in caplog.text
    train_run(run, NESTED_MLP)
    assert [type(e.fact).__name__ for e in engine.history("model")][-1] == "TrainingContinued"
    assert run.session.step == 3


@pytest.mark.parametrize("blending", [False, True])
def test_an_epoch_that_the_vault_has_no_room_for_has_not_ended(blending: bool, tmp_path: Path) -> None:
    url, place = f"sqlite:///{tmp_path / 'runs.db'}", tmp_path / "runs.vault"
    with Engine(url) as engine:
        run = attached(engine, NESTED_MLP, adam, capture=CapturePolicy(every_n_epochs=1))
        run.seeds.plant("seed", "0")
        if blending:
            run.seeds.germinate("seed", "mlp")
            run.seeds.advance("seed")
            run.epoch_end()
            run.seeds.advance("seed")
        size = engine.vault.size_bytes()
    with Engine(url, vault=Vault.open(place, quota_bytes=size)) as engine:
        run = attached(engine, NESTED_MLP, adam)
        train_run(run, NESTED_MLP)
        before, version, epoch, seeds = photograph(run), run.version, run.epoch, dict(run.state.seeds)
        with pytest.raises(VaultError, match="quota"):
            run.epoch_end({"score": 0.5})
        assert differences(before, photograph(run)) == []
        assert (run.version, run.epoch, dict(run.state.seeds)) == (version, epoch, seeds)
        assert engine.state("model") == run.state
    with Engine(url, vault=Vault.open(place)) as engine:
        run = attached(engine, NESTED_MLP, adam)
        run.epoch_end({"score": 0.5})
        assert run.epoch == epoch + 1
        assert run.rollback(run.version).success


def test_the_end_of_an_epoch_and_its_capture_are_one_transaction(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam, capture=CapturePolicy(every_n_epochs=1))
    train_run(run, NESTED_MLP)
    with (
        failpoints.raising("ledger.inserted", LedgerError("the database is away")),
        pytest.raises(LedgerError, match="away"),
    ):
        run.epoch_end()
    assert (run.epoch, engine.state("model")) == (0, run.state)


def packs(run: Run) -> list[Path]:
    vault = run.session.vault
    assert isinstance(vault, Vault)
    return sorted(vault.path.glob("packs/*.pack"))


def test_a_rollback_to_a_damaged_capture_says_so_and_changes_nothing(url: str) -> None:
    with Engine(url) as engine:
        run = attached(engine, NESTED_MLP, adam)
        known = set(packs(run))
        train_run(run, NESTED_MLP)
        version = run.capture()
        (pack,) = set(packs(run)) - known
        content = bytearray(pack.read_bytes())
        content[len(content) // 4 : len(content) // 4 + 64] = bytes(64)
        pack.chmod(0o600)
        pack.write_bytes(content)
        train_run(run, NESTED_MLP)
        before, head = photograph(run), run.version
        with pytest.raises((IntegrityFailure, MissingTensorError)):
            run.rollback(version)
        assert (differences(before, photograph(run)), run.version) == ([], head)


def test_a_rollback_to_a_capture_that_is_gone_says_so_and_changes_nothing(url: str) -> None:
    with Engine(url) as engine:
        run = attached(engine, NESTED_MLP, adam)
        known = set(packs(run))
        train_run(run, NESTED_MLP)
        version = run.capture()
        for pack in set(packs(run)) - known:
            pack.unlink()
        train_run(run, NESTED_MLP)
        before, head = photograph(run), run.version
        with pytest.raises(VaultError):
            run.rollback(version)
        assert (differences(before, photograph(run)), run.version) == ([], head)


def test_a_replay_of_a_capture_that_is_gone_is_structural_and_says_what_is_missing(url: str) -> None:
    with Engine(url) as engine:
        run = attached(engine, NESTED_MLP, adam)
        for pack in packs(run):
            pack.unlink()
    with Engine(url) as engine:
        replayed = engine.replay("model")
        assert describe(replayed).fingerprint == run.architecture.fingerprint
        assert replayed.esper_replay.exactness == "structural"  # type: ignore[union-attr]


class Counting(nn.Module):
    """Replaces its buffer by another tensor in every training step."""

    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 8)
        self.leave = nn.Linear(8, 3)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.count = self.count + 1
        y: torch.Tensor = self.leave(self.enter(x))
        return y


class Demanding(nn.Module):
    """Cannot run in training mode without targets."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 8)
        self.leave = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, targets: torch.Tensor | None = None) -> torch.Tensor:
        if self.training and targets is None:
            raise KeyError("targets")
        y: torch.Tensor = self.leave(self.enter(x))
        return y


def test_a_model_that_replaces_its_buffers_can_be_operated_on(url: str) -> None:
    blueprint("tests/counting")(Counting)
    with Engine(url) as engine:
        run = attached(engine, Zoolet("counting", Counting, (6,), "tests/counting"), adam)
        assert run.surgeon.modify_layer_width(layer_name="enter", new_width=12).success
        assert float(run.model.get_buffer("count")) == 0.0


def test_a_model_that_fails_on_its_example_inputs_in_training_mode_is_refused_with_the_reason(
    url: str,
) -> None:
    blueprint("tests/demanding")(Demanding)
    with Engine(url) as engine:
        run = attached(engine, Zoolet("demanding", Demanding, (6,), "tests/demanding"), adam)
        result = run.surgeon.modify_layer_width(layer_name="enter", new_width=12)
        assert (result.success, result.check) == (False, "gradient_flow")
        assert "targets" in (result.error or "")
