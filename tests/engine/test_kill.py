"""Kill -9 anywhere between intent and commit: after a restart log, vault and model agree."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from models import NESTED_MLP
from training import adam, attached, train_run

from esper_es import Engine, fingerprint
from esper_es.ledger.chain import verify_chain
from esper_es.projections.live.describe import describe
from esper_es.vault import Vault

from .killed_runs import killed_attach, killed_run

pytestmark = pytest.mark.slow

BEFORE_COMMIT = {
    "surgery": (
        "operation.planned",
        "operation.validated",
        "vault.writing",
        "vault.renamed",
        "vault.indexed",
        "capture.stored",
        "operation.applied",
        "ledger.appending",
        "ledger.inserted",
        "ledger.projected",
    ),
    "germination": ("operation.applied", "ledger.projected"),
    "rollback": ("capture.stored", "restore.loaded", "restore.applied", "ledger.projected"),
    "epoch": ("operation.applied", "ledger.inserted"),
    "capture": ("capture.stored", "ledger.projected"),
    "refusal": ("ledger.projected",),
}
AFTER_COMMIT = ("surgery", "germination", "rollback", "epoch", "capture")


def require_sound(engine: Engine) -> None:
    with engine.log.database.connect() as connection:
        assert verify_chain(connection) == []
    assert isinstance(engine.vault, Vault)
    assert engine.vault.verify() == []
    assert describe(engine.replay("model")).fingerprint == engine.state("model").architecture.fingerprint
    assert engine.audit.versions() == {engine.state("model").id: engine.state("model").version}


def require_resumable(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam)
    train_run(run, NESTED_MLP)
    assert run.surgeon.modify_layer_width(layer_name="0", new_width=10).success
    assert fingerprint(engine.replay("model")) == run.fingerprint


@pytest.mark.parametrize(
    ("operation", "point"), [(name, point) for name, points in BEFORE_COMMIT.items() for point in points]
)
def test_killed_before_the_commit_the_operation_never_happened(
    operation: str, point: str, url: str, tmp_path: Path
) -> None:
    code, version, before = killed_run(url, operation, point, tmp_path / "notes.json")
    assert code == -signal.SIGKILL
    with Engine(url) as engine:
        require_sound(engine)
        assert engine.state("model").version == version
        assert fingerprint(engine.replay("model")) == before
        require_resumable(engine)


@pytest.mark.parametrize("operation", AFTER_COMMIT)
def test_killed_after_the_commit_the_operation_happened(operation: str, url: str, tmp_path: Path) -> None:
    code, version, _ = killed_run(url, operation, "ledger.committed", tmp_path / "notes.json")
    assert code == -signal.SIGKILL
    with Engine(url) as engine:
        require_sound(engine)
        assert engine.state("model").version > version
        require_resumable(engine)


@pytest.mark.parametrize("point", ["vault.renamed", "ledger.projected"])
def test_killed_at_birth_the_name_is_free_again(point: str, url: str) -> None:
    assert killed_attach(url, point) == -signal.SIGKILL
    with Engine(url) as engine:
        assert engine.names() == ()
        require_resumable(engine)
        require_sound(engine)


@pytest.mark.parametrize("point", ["restore.applied", "ledger.projected"])
def test_killed_while_resuming_it_can_be_resumed_again(point: str, url: str) -> None:
    with Engine(url) as engine:
        run = attached(engine, NESTED_MLP, adam)
        train_run(run, NESTED_MLP)
        run.capture()
        version, before = run.version, run.fingerprint
    assert killed_attach(url, point) == -signal.SIGKILL
    with Engine(url) as engine:
        require_sound(engine)
        assert (engine.state("model").version, fingerprint(engine.replay("model"))) == (version, before)
        require_resumable(engine)
