"""A disk that is really full: nothing is half-changed, and all goes on when there is room again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from full_disks import filled
from models import NESTED_MLP
from training import adam, attached, train_run

from esper_es import Engine, LedgerError, Run, VaultError, fingerprint

from .photograph import differences, photograph

OPERATIONS: dict[str, Callable[[Run], object]] = {
    "surgery": lambda run: run.surgeon.modify_layer_width(layer_name="0", new_width=12),
    "capture": lambda run: run.capture(),
    "epoch": lambda run: run.epoch_end({"score": 1.0}),
    "rollback": lambda run: run.rollback(2),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_on_a_full_disk_never_happened_and_succeeds_on_an_emptied_one(
    operation: str, small_disk: Path
) -> None:
    with Engine(f"sqlite:///{small_disk / 'runs.db'}") as engine:
        run = attached(engine, NESTED_MLP, adam)
        train_run(run, NESTED_MLP)
        before, version = photograph(run), run.version
        with filled(small_disk), pytest.raises((LedgerError, VaultError), match=r"full|do not fit"):
            OPERATIONS[operation](run)
        assert (differences(before, photograph(run)), run.version) == ([], version)
        OPERATIONS[operation](run)
        assert engine.state("model") == run.state


def test_a_log_on_a_full_disk_can_be_read(small_disk: Path) -> None:
    url = f"sqlite:///{small_disk / 'runs.db'}"
    with Engine(url) as engine:
        recorded = attached(engine, NESTED_MLP, adam).fingerprint
    with filled(small_disk), Engine(url, read_only=True) as engine:
        assert fingerprint(engine.replay("model")) == recorded
