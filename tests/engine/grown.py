"""Runs with some history behind them, for the tests of what can be done with a history."""

from __future__ import annotations

from typing import Any

from models import NESTED_MLP
from sqlalchemy import select
from torch import nn
from training import adam, attached, train_run

from esper_es import Engine, Run
from esper_es.ledger.chain import verify_chain
from esper_es.projections.audit.tables import TABLES


def grown(engine: Engine, name: str = "model", **terms: Any) -> Run:
    """A run that was trained, widened, deepened, given a skip, and captured, with training in between."""
    run = attached(engine, NESTED_MLP, adam, name=name, **terms)
    train_run(run, NESTED_MLP, 2)
    assert run.surgeon.modify_layer_width(layer_name="0", new_width=12).success
    train_run(run, NESTED_MLP)
    assert run.surgeon.add_layer(after_layer="2", new_layer=nn.Linear(8, 8), layer_name="deeper").success
    assert run.surgeon.add_skip_connection(from_layer="2", to_layer="deeper").success
    train_run(run, NESTED_MLP)
    run.epoch_end({"score": 0.5})
    run.capture()
    return run


def seeded(engine: Engine, name: str = "model") -> Run:
    """A run with a dormant seed, one that incubates, one that blends halfway, and a culled one."""
    run = attached(engine, NESTED_MLP, adam, name=name)
    for seed, layer in (("dormant", "0"), ("young", "1"), ("blended", "2.0"), ("culled", "2.2")):
        assert run.seeds.plant(seed, layer).success
    for seed in ("young", "blended", "culled"):
        assert run.seeds.germinate(seed, "mlp").success
    run.seeds.cull("culled")
    run.seeds.advance("blended")
    train_run(run, NESTED_MLP)
    run.epoch_end()
    assert run.seeds.advance("blended").success
    run.epoch_end()
    train_run(run, NESTED_MLP)
    run.capture()
    return run


def forked(engine: Engine, source: str, name: str, version: int | None = None) -> Run:
    """Fork a model and attach what came out, with a fresh Adam whose state comes from the fork's first capture."""
    return attached(
        engine, NESTED_MLP, adam, model=engine.fork(source, name=name, version=version), name=name
    )


def tampering(engine: Engine) -> list[Any]:
    """Return what is wrong with the chains of a log."""
    with engine.log.database.connect() as connection:
        return [*verify_chain(connection)]


def audit_rows(engine: Engine) -> dict[str, list[Any]]:
    """Return every row of every audit table of a log."""
    with engine.log.database.connect() as connection:
        return {
            t.name: [tuple(row) for row in connection.execute(select(t).order_by(*t.primary_key))]
            for t in TABLES
        }
