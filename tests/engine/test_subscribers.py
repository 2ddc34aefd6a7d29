"""Subscribers hear every fact after its commit, in order."""

from __future__ import annotations

import logging

import pytest
from models import NESTED_MLP
from training import adam, attached, part_of, train_run

from esper_es import Engine, Envelope, failpoints


def test_every_fact_is_heard_once_and_in_order(engine: Engine) -> None:
    heard: list[Envelope] = []
    engine.subscribe(heard.append)
    run = attached(engine, NESTED_MLP, adam)
    train_run(run, NESTED_MLP)
    run.surgeon.modify_layer_width(layer_name="0", new_width=12)
    run.surgeon.remove_layer(layer_name="nowhere")
    run.seeds.plant("seed", "0")
    run.epoch_end()
    run.rollback(2)
    assert tuple(heard) == engine.history("model")


def test_a_fact_is_in_the_log_when_it_is_heard(engine: Engine) -> None:
    missing: list[int] = []

    def check(envelope: Envelope) -> None:
        if envelope not in engine.history("model"):
            missing.append(envelope.version)

    engine.subscribe(check)
    run = attached(engine, NESTED_MLP, adam)
    run.surgeon.modify_layer_width(layer_name="0", new_width=12)
    assert missing == []


def test_the_model_is_as_the_fact_says_when_it_is_heard(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam)
    widths: list[int] = []
    engine.subscribe(lambda envelope: widths.append(part_of(run, "0").out_features))
    run.surgeon.modify_layer_width(layer_name="0", new_width=12)
    assert set(widths) == {12}


def test_one_that_raises_harms_neither_the_run_nor_the_others(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[int] = []

    def broken(envelope: Envelope) -> None:
        raise RuntimeError("dashboard is down")

    engine.subscribe(broken)
    engine.subscribe(lambda envelope: heard.append(envelope.version))
    with caplog.at_level(logging.ERROR):
        run = attached(engine, NESTED_MLP, adam)
        assert run.surgeon.modify_layer_width(layer_name="0", new_width=12).success
    assert heard == [1, 2, 3, 4]
    assert "dashboard is down" in caplog.text


def test_facts_that_were_not_committed_are_not_heard(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam)
    heard: list[Envelope] = []
    engine.subscribe(heard.append)
    with failpoints.raising("ledger.projected", OSError("disk full")), pytest.raises(OSError, match="full"):
        run.surgeon.modify_layer_width(layer_name="0", new_width=12)
    assert heard == []


def test_a_subscriber_may_roll_back_what_it_hears_of(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam)

    def veto(envelope: Envelope) -> None:
        if type(envelope.fact).__name__ == "LayerWidthModified":
            run.rollback(envelope.fact.base_capture)  # type: ignore[union-attr, arg-type]

    engine.subscribe(veto)
    run.surgeon.modify_layer_width(layer_name="0", new_width=12)
    assert part_of(run, "0").out_features == 8
    assert engine.state("model") == run.state
