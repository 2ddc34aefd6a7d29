"""What facts take in the log: bytes of their bodies, against every edit and effect spelled out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import orjson
import sqlalchemy as sa
import torch
from attrs import frozen
from torch import nn

from benchmarks.measure import Row, Setting, Table
from benchmarks.subjects import Subject, subjects
from esper_es import Engine, Run
from esper_es.ledger.folding import unfolded
from esper_es.ledger.tables import facts


@frozen
class Change:
    """Something that ends in a fact with edits."""

    what: str
    make: Callable[[Run], object]


def tables(setting: Setting) -> list[Table]:
    """Measure."""
    found, skipped = subjects()
    languages = [subject for subject in found if subject.title.startswith("GPT-2")]
    deep = next(subject for subject in found if subject.title.startswith("MLP"))
    return [*[_table(subject, GPT2) for subject in languages], _table(deep, MLP, skipped)]


def _width(what: str, layer: str, width: int, unit: str = "channels") -> Change:
    return Change(
        what,
        lambda run: run.surgeon.modify_layer_width(layer_name=layer, new_width=width, unit=unit),
    )


def _germinate(run: Run) -> object:
    run.seeds.plant("seed", "transformer.h.4")
    return run.seeds.germinate("seed", "lora")


def _skip(run: Run) -> object:
    return run.surgeon.add_skip_connection(from_layer="transformer.h.1", to_layer="transformer.h.3")


def _add(run: Run) -> object:
    layer = nn.Linear(780, 780)
    return run.surgeon.add_layer(
        after_layer="transformer.h.2", new_layer=layer, layer_name="extra", connection_type="residual"
    )


GPT2 = (
    _width("an MLP from 3,072 to 3,200", "transformer.h.5.mlp.c_fc", 3200),
    _width("an MLP from 3,072 to 2,500", "transformer.h.6.mlp.c_fc", 2500),
    _width("13 heads instead of 12", "transformer.h.3.attn.c_attn", 13, "heads"),
    _width("the stream from 768 to 780", "transformer.wte", 780),
    Change("a skip over two blocks", _skip),
    Change("an MLP removed", lambda run: run.surgeon.remove_layer(layer_name="transformer.h.9.mlp")),
    Change("a layer added", _add),
    Change("a seed germinated", _germinate),
)
MLP = (
    _width("a layer from 64 to 80", "1000", 80),
    Change("a layer removed", lambda run: run.surgeon.remove_layer(layer_name="1")),
)


def _table(subject: Subject, changes: Sequence[Change], skipped: Sequence[str] = ()) -> Table:
    with tempfile.TemporaryDirectory() as folder, Engine(f"sqlite:///{Path(folder) / 'bench.db'}") as engine:
        model = subject.build()
        optimizer = torch.optim.Adam(model.parameters())
        subject.train_step(model, optimizer)
        run = engine.attach(model, "bench", subject.example, optimizer, blueprint=subject.blueprint)
        rows = _rows("the model as attached", engine, 0)
        for change in changes:
            before = run.version
            change.make(run)
            rows += _rows(change.what, engine, before)
    return Table(
        f"Bytes of facts: {subject.title}, Adam", rows, threads=torch.get_num_threads(), skipped=skipped
    )


def _rows(what: str, engine: Engine, after: int) -> list[Row]:
    """Return a row for each new fact with edits."""
    query = sa.select(facts.c.name, facts.c.body).where(facts.c.version > after).order_by(facts.c.version)
    with engine.log.database.connect() as connection:
        stored = [(name, bytes(body)) for name, body in connection.execute(query)]
    rows = []
    for name, body in stored:
        document = orjson.loads(body)
        if "edits" in document["fact"]:
            plain = len(orjson.dumps({**document, "fact": unfolded(document["fact"])}))
            rows.append(Row(what, len(body), "bytes", "in full", len(body) / plain, name))
    return rows
