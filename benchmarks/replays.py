"""Reading and folding 10,000 facts, against decoding their JSON alone; replaying a module."""

from __future__ import annotations

import tempfile
from pathlib import Path

import orjson
import sqlalchemy as sa
import torch
from torch import nn

from benchmarks.measure import Row, Setting, Table, milliseconds
from esper_es import Engine
from esper_es.domain.envelope import Cause, model_id
from esper_es.domain.facts import EpochEnded
from esper_es.ledger.tables import facts

FACTS = 10_000


def tables(setting: Setting) -> list[Table]:
    """Measure."""
    repeats = 3 if setting.quick else 7
    with tempfile.TemporaryDirectory() as folder, Engine(f"sqlite:///{Path(folder) / 'bench.db'}") as engine:
        run = engine.attach(nn.Sequential(nn.Linear(8, 8)), "bench", (torch.randn(4, 8),))
        for start in range(0, FACTS, 500):
            ended = [
                EpochEnded(epoch=start + n + 1, step=start + n, metrics={"accuracy": 0.5, "loss": 1.0})
                for n in range(500)
            ]
            run.session.commit(ended, Cause(actor="benchmark"))
        bodies = _bodies(engine)
        parsing = milliseconds(lambda: [orjson.loads(body) for body in bodies], repeats)
        loading = milliseconds(lambda: engine.log.load(model_id("bench")), repeats)
        history = milliseconds(lambda: engine.history("bench"), repeats)
        replaying = milliseconds(lambda: engine.replay("bench"), repeats)
    rows = [
        Row(f"orjson alone on {FACTS:,} stored facts", parsing),
        Row("read, decode and fold them", loading, baseline="orjson", ratio=loading / parsing),
        Row(
            "read and decode them, twice over for history",
            history,
            baseline="orjson",
            ratio=history / parsing,
        ),
        Row("replay of the module", replaying, baseline="orjson", ratio=replaying / parsing),
    ]
    return [Table(f"{FACTS:,} facts", rows, rounds=repeats, threads=torch.get_num_threads())]


def _bodies(engine: Engine) -> list[bytes]:
    with engine.log.database.connect() as connection:
        return [bytes(body) for body in connection.scalars(sa.select(facts.c.body))]
