"""Runs in processes of their own, which die at a failpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import torch
from models import NESTED_MLP
from training import adam, attached, train_run

from esper_es import AlphaSchedule, Engine, Run, failpoints

PRELOADED = ("torch", "esper_es.engine", "sqlalchemy", "alembic.command")

_SECONDS = 300
_PROCESSES = get_context("forkserver")
_PROCESSES.set_forkserver_preload(list(PRELOADED))

OPERATIONS: dict[str, Callable[[Run], object]] = {
    "surgery": lambda run: run.surgeon.modify_layer_width(layer_name="0", new_width=12),
    "germination": lambda run: run.seeds.germinate("resting", "mlp"),
    "rollback": lambda run: run.rollback(2),
    "epoch": lambda run: run.epoch_end({"score": 1.0}),
    "capture": lambda run: run.capture(),
    "refusal": lambda run: run.surgeon.remove_layer(layer_name="nowhere"),
}


def eventful(engine: Engine) -> Run:
    """A run with a surgery behind it, a seed that blends, and training since."""
    run = attached(engine, NESTED_MLP, adam)
    run.seeds.plant("resting", "1")
    run.seeds.plant("seed", "2.0")
    run.seeds.germinate("seed", "lora")
    run.seeds.advance("seed")
    train_run(run, NESTED_MLP, 2)
    run.epoch_end({"score": 1.0})
    run.seeds.advance("seed", schedule=AlphaSchedule(epochs=3))
    train_run(run, NESTED_MLP)
    run.capture()
    return run


def _until_killed(url: str, operation: str, point: str, notes: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    engine = Engine(url)
    run = eventful(engine)
    Path(notes).write_text(json.dumps({"version": run.version, "fingerprint": run.fingerprint}))
    os.environ[failpoints.VARIABLE] = point
    OPERATIONS[operation](run)


def _attach_until_killed(url: str, point: str) -> None:
    torch.set_num_threads(1)
    os.environ[failpoints.VARIABLE] = point
    attached(Engine(url), NESTED_MLP, adam)


def killed_run(url: str, operation: str, point: str, notes: Path) -> tuple[int, int, str]:
    """Let a process live until an operation reaches a failpoint.

    The operation must reach it: a capture of a state that is stored already, say, writes no pack.

    Returns:
        Its exit code (negative when a signal killed it), and version and model fingerprint before the operation.
    """
    code = _exit_code(_until_killed, url, operation, point, str(notes))
    before = json.loads(notes.read_text())
    return code, before["version"], before["fingerprint"]


def killed_attach(url: str, point: str) -> int:
    """Let a process attach to a name until it reaches a failpoint; return its exit code."""
    return _exit_code(_attach_until_killed, url, point)


def _exit_code(work: Callable[..., None], *arguments: str) -> int:
    process = _PROCESSES.Process(target=work, args=arguments)
    process.start()
    process.join(timeout=_SECONDS)
    if process.exitcode is None:  # to kill it now would look as if it had died where it should
        process.kill()
        process.join()
        raise TimeoutError(
            f"after {_SECONDS} s the process had not come to its end; the machine is very busy"
        )
    return process.exitcode
