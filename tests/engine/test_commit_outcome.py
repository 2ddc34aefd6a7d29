"""Errors around the very moment of the commit: the log says what became of the facts, and the model follows it."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lossy_proxy import Network, lossy_network
from models import NESTED_MLP
from sqlalchemy import event
from training import adam, attached, train_run

from esper_es import (
    AlphaSchedule,
    CapturePolicy,
    Engine,
    LedgerError,
    OutcomeUnknownError,
    Run,
    failpoints,
)
from esper_es.projections.live.describe import describe
from esper_es.projections.live.live import Live
from esper_es.projections.live.movement import Mark

from .photograph import differences, photograph

OPERATIONS: dict[str, Callable[[Run], object]] = {
    "surgery": lambda run: run.surgeon.modify_layer_width(layer_name="0", new_width=12),
    "germination": lambda run: run.seeds.germinate("resting", "mlp"),
    "alpha": lambda run: run.seeds.set_alpha("seed", 0.7),
    "epoch": lambda run: run.epoch_end({"score": 1.0}),
    "rollback": lambda run: run.rollback(2),
    "capture": lambda run: run.capture(),
    "refusal": lambda run: run.surgeon.remove_layer(layer_name="nowhere"),
}

STOPS: tuple[BaseException, ...] = (
    KeyboardInterrupt(),
    SystemExit(1),
    asyncio.CancelledError(),
    MemoryError("out of memory"),
    OSError("the driver failed on its way out"),
    LedgerError("post-commit code failed"),
)


def blending(engine: Engine) -> Run:
    """A run with a resting and a blending seed, trained since its last capture."""
    run = attached(engine, NESTED_MLP, adam)
    run.seeds.plant("resting", "1")
    run.seeds.plant("seed", "2.0")
    run.seeds.germinate("seed", "lora")
    run.seeds.advance("seed")
    run.epoch_end({"score": 1.0})
    run.seeds.advance("seed", schedule=AlphaSchedule(epochs=3))
    train_run(run, NESTED_MLP)
    return run


def require_agreement(engine: Engine, run: Run) -> None:
    assert engine.state("model") == run.state
    assert describe(run.model).fingerprint == run.architecture.fingerprint


@pytest.mark.parametrize(
    ("operation", "stop"),
    [
        *(("surgery", stop) for stop in STOPS),
        *((name, stop) for name in OPERATIONS if name != "surgery" for stop in STOPS[-2:]),
    ],
)
def test_an_error_right_after_the_commit_leaves_the_change_in_log_and_model(
    operation: str, stop: BaseException
) -> None:
    with Engine() as engine:
        run = blending(engine)
        version = run.version
        with failpoints.raising("ledger.committed", stop), pytest.raises(type(stop)):
            OPERATIONS[operation](run)
        require_agreement(engine, run)
        assert run.version > version
        assert run.surgeon.modify_layer_width(layer_name="0", new_width=14).success


def test_an_error_on_the_way_out_of_the_driver_leaves_the_change_in_log_and_model(
    database_url: str, tmp_path: Path
) -> None:
    with Engine(database_url, vault=tmp_path / "vault") as engine:
        run = attached(engine, NESTED_MLP, adam)
        database = engine.log.database

        def fail(*_: Any) -> None:
            raise MemoryError("out of memory")

        def fail_on_the_way_out(_: Any) -> None:
            event.listen(database.pool, "checkin", fail, once=True)

        event.listen(database, "commit", fail_on_the_way_out, once=True)
        with pytest.raises(MemoryError):
            run.surgeon.modify_layer_width(layer_name="0", new_width=12)
        assert run.architecture.nodes["0"].config["out_features"] == 12
        require_agreement(engine, run)


def interrupt_in(database: Any, words: str) -> None:
    """Let Ctrl-C arrive inside the driver, in the next statement that contains some words."""

    waiting = [words]

    def interrupt(_cursor: Any, statement: str, *_: Any) -> None:
        if waiting and words in statement:
            waiting.clear()
            signal.raise_signal(signal.SIGINT)

    event.listen(database, "do_execute", interrupt)
    event.listen(database, "do_executemany", interrupt)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt, also where a shell started the tests in the background, which ignores it."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("words", ["BEGIN IMMEDIATE", "INSERT INTO facts", "UPDATE heads", "INTO history"])
def test_ctrl_c_inside_an_append_costs_neither_a_log_in_memory_nor_the_run(
    words: str, engine: Engine
) -> None:
    run = blending(engine)
    before, version = photograph(run), run.version
    interrupt_in(engine.log.database, words)
    with pytest.raises(KeyboardInterrupt):
        run.surgeon.modify_layer_width(layer_name="0", new_width=12)
    assert (differences(before, photograph(run)), run.version) == ([], version)
    require_agreement(engine, run)
    assert run.surgeon.modify_layer_width(layer_name="0", new_width=12).success


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_between_a_statement_and_its_commit_keeps_no_lock_while_its_exception_is_kept(
    tmp_path: Path,
) -> None:
    with Engine(f"sqlite:///{tmp_path}/runs.db?timeout=1", vault=tmp_path / "vault") as engine:
        run = blending(engine)
        waiting = [signal.SIGINT]

        def interrupt(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if waiting and "INSERT INTO facts" in statement:
                signal.raise_signal(waiting.pop())

        event.listen(engine.log.database, "after_cursor_execute", interrupt)
        with pytest.raises(KeyboardInterrupt) as kept:
            run.surgeon.modify_layer_width(layer_name="0", new_width=12)
        assert run.surgeon.modify_layer_width(layer_name="0", new_width=12).success, kept
        require_agreement(engine, run)


@pytest.mark.parametrize("operation", ["surgery", "rollback", "capture"])
def test_an_interrupt_while_the_run_takes_a_commit_in_leaves_the_change_in_log_and_model(
    operation: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = blending(engine)
    version, whole = run.version, Mark.of

    def interrupted(live: Live) -> Mark:
        if run.version == version or run.session.unsettled == ():
            return whole(live)
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(Mark, "of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        OPERATIONS[operation](run)
    require_agreement(engine, run)
    assert run.version > version
    assert run.surgeon.modify_layer_width(layer_name="0", new_width=14).success


def test_captures_that_could_not_be_released_do_not_make_a_failure_of_what_was_recorded(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    run = attached(engine, NESTED_MLP, adam, capture=CapturePolicy(keep_last=1))
    train_run(run, NESTED_MLP)
    run.capture()
    train_run(run, NESTED_MLP)
    with failpoints.raising("ledger.appending", LedgerError("the database is away"), hit=2):
        result = run.surgeon.modify_layer_width(layer_name="0", new_width=12)
    assert result.success
    assert "the database is away" in caplog.text
    require_agreement(engine, run)


@pytest.fixture
def network(postgresql_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A network to an empty PostgreSQL database; once it has failed, it stays down."""
    with lossy_network(postgresql_url, tmp_path_factory.mktemp("p")) as lossy:
        lossy.staying_down = True
        yield lossy


@pytest.fixture
def remote(network: Network, tmp_path: Path) -> Iterator[Engine]:
    """An engine on the other side of it."""
    with Engine(network.url.render_as_string(hide_password=False), vault=tmp_path / "vault") as engine:
        yield engine


@pytest.mark.postgresql
@pytest.mark.parametrize("operation", ["surgery", "epoch", "rollback"])
def test_a_commit_whose_answer_is_lost_is_found_in_the_log(
    operation: str, network: Network, remote: Engine
) -> None:
    run = blending(remote)
    version, network.staying_down = run.version, False
    network.losing_commit.set()
    OPERATIONS[operation](run)
    assert run.version > version
    require_agreement(remote, run)


@pytest.mark.postgresql
@pytest.mark.parametrize("delivering", [True, False])
def test_an_outcome_that_cannot_be_learnt_is_said_and_the_run_is_as_before(
    delivering: bool, network: Network, remote: Engine
) -> None:
    run = blending(remote)
    before, version = photograph(run), run.version
    network.delivering = delivering
    network.losing_commit.set()
    with pytest.raises(OutcomeUnknownError, match=rf"unknown.*put back to version {version}.*attach"):
        OPERATIONS["surgery"](run)
    assert (differences(before, photograph(run)), run.version) == ([], version)
    with pytest.raises(OutcomeUnknownError, match="still unknown"):
        OPERATIONS["epoch"](run)


@pytest.mark.postgresql
def test_facts_found_not_to_be_recorded_after_all_do_not_stop_the_run(
    network: Network, remote: Engine
) -> None:
    run = blending(remote)
    network.delivering = False
    network.losing_commit.set()
    with pytest.raises(OutcomeUnknownError):
        OPERATIONS["surgery"](run)
    network.down.clear()
    assert run.surgeon.modify_layer_width(layer_name="0", new_width=12).success
    require_agreement(remote, run)


@pytest.mark.postgresql
def test_facts_found_to_be_recorded_after_all_end_the_run_and_a_new_one_resumes_from_them(
    network: Network, remote: Engine
) -> None:
    run = blending(remote)
    network.losing_commit.set()
    with pytest.raises(OutcomeUnknownError):
        OPERATIONS["surgery"](run)
    network.down.clear()
    with pytest.raises(
        LedgerError, match=rf"was recorded after all.*stands at version {run.version}.*attach"
    ):
        OPERATIONS["epoch"](run)
    resumed = attached(remote, NESTED_MLP, adam)
    assert resumed.architecture.nodes["0"].config["out_features"] == 12
    require_agreement(remote, resumed)


@pytest.mark.postgresql
def test_training_goes_on_while_an_outcome_is_unknown(
    network: Network, remote: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    run = blending(remote)
    run.capture()
    network.delivering = False
    network.losing_commit.set()
    with caplog.at_level(logging.WARNING):
        train_run(run, NESTED_MLP)
    assert "unknown" in caplog.text
    network.down.clear()
    train_run(run, NESTED_MLP)
    require_agreement(remote, run)
