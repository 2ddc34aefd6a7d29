"""Two writers on one log: the second one's operations are refused as conflicts and leave everything consistent."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from models import NESTED_MLP
from training import adam, attached, train_run

from esper_es import AlphaSchedule, ConflictError, Engine, Run
from esper_es.ledger.chain import verify_chain
from esper_es.projections.live.describe import describe

from .photograph import differences, photograph

OPERATIONS: dict[str, Callable[[Run], object]] = {
    "a surgery": lambda run: run.surgeon.modify_layer_width(layer_name="0", new_width=12),
    "a refused surgery": lambda run: run.surgeon.remove_layer(layer_name="nowhere"),
    "a rollback": lambda run: run.rollback(2),
    "a capture": lambda run: run.capture(),
    "an epoch": lambda run: run.epoch_end(),
    "an epoch that moves alpha": lambda run: run.epoch_end({"score": 1.0}),
    "a planted seed": lambda run: run.seeds.plant("another", "0"),
    "a germination": lambda run: run.seeds.germinate("resting", "mlp"),
    "a culled seed": lambda run: run.seeds.cull("seed"),
    "alpha by hand": lambda run: run.seeds.set_alpha("seed", 0.7),
}


def blending(engine: Engine) -> Run:
    """Attach, with one seed that blends and one that rests."""
    run = attached(engine, NESTED_MLP, adam)
    run.seeds.plant("resting", "1")
    run.seeds.plant("seed", "0")
    run.seeds.germinate("seed", "lora")
    run.seeds.advance("seed")
    run.epoch_end()
    run.seeds.advance("seed", schedule=AlphaSchedule(epochs=4))
    run.capture()
    return run


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_second_writer_conflicts_and_its_run_is_as_before(operation: str, url: str) -> None:
    with Engine(url) as first, Engine(url) as second:
        late = blending(first)
        early = attached(second, NESTED_MLP, adam)
        early.epoch_end()
        before, version = photograph(late), late.version
        with pytest.raises(ConflictError, match="another writer"):
            OPERATIONS[operation](late)
        assert (differences(before, photograph(late)), late.version) == ([], version)
        assert describe(late.model).fingerprint == late.architecture.fingerprint


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_log_holds_the_first_writers_facts_only(operation: str, url: str) -> None:
    with Engine(url) as first, Engine(url) as second:
        late = blending(first)
        early = attached(second, NESTED_MLP, adam)
        early.epoch_end()
        history = second.history("model")
        with pytest.raises(ConflictError):
            OPERATIONS[operation](late)
        assert second.history("model") == history
        assert second.state("model") == early.state
        with second.log.database.connect() as connection:
            assert verify_chain(connection) == []


def test_the_first_writer_goes_on(url: str) -> None:
    with Engine(url) as first, Engine(url) as second:
        late = blending(first)
        early = attached(second, NESTED_MLP, adam)
        early.epoch_end()
        with pytest.raises(ConflictError):
            late.epoch_end()
        assert early.surgeon.modify_layer_width(layer_name="0", new_width=12).success


def test_training_under_a_log_that_another_has_taken_over_goes_on_with_a_warning(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Engine(url) as first, Engine(url) as second:
        late = blending(first)
        attached(second, NESTED_MLP, adam).epoch_end()
        with caplog.at_level(logging.WARNING):
            train_run(late, NESTED_MLP)
        assert "another writer" in caplog.text


def test_a_name_registered_meanwhile_is_resumed_not_registered_twice(url: str) -> None:
    with Engine(url) as first, Engine(url) as second:
        attached(first, NESTED_MLP, adam)
        attached(second, NESTED_MLP, adam)
        assert [type(e.fact).__name__ for e in second.history("model")] == [
            "ModelRegistered",
            "StateCaptured",
            "RunResumed",
        ]
