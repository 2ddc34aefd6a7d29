"""Replay: a fresh module from the log, at any version."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from models import CONV_NET, CUSTOM_MLP, NESTED_CNN, NESTED_MLP, ZOO, Zoolet
from torch import nn
from training import adam, attached, momentum, part_of, train_run

from esper_es import (
    AlphaSchedule,
    CapturePolicy,
    Engine,
    IntegrityFailure,
    ReplayError,
    Run,
    UsageError,
    blueprint,
    fingerprint,
)
from esper_es.domain.facts import ModelRegistered
from esper_es.projections.live.blueprints import unregister
from esper_es.projections.live.describe import describe
from esper_es.vault import Vault

REPLAY_ALL = """
import json, sys
import models
from esper_es import Engine, fingerprint
with Engine(sys.argv[1]) as engine:
    state = engine.state("model")
    replays = {version: engine.replay("model", version) for version in sorted(state.restorable)}
print(json.dumps({v: [fingerprint(m), m.esper_replay.exactness] for v, m in replays.items()}))
"""


def eventful(run: Run, zoolet: Zoolet) -> dict[int, str]:
    """Live through surgeries, training and a seed; return the model's fingerprint at versions."""
    seen = {run.version: run.fingerprint}

    def note() -> None:
        seen[run.version] = run.fingerprint

    train_run(run, zoolet, 2)
    note()
    assert run.surgeon.modify_layer_width(layer_name="conv1", new_width=9).success
    note()
    train_run(run, zoolet, 2)
    note()
    assert run.surgeon.add_skip_connection(from_layer="conv1", to_layer="conv3").success
    note()
    run.seeds.plant("seed", "conv2")
    assert run.seeds.germinate("seed", "conv_small").success
    note()
    run.seeds.advance("seed")
    train_run(run, zoolet)
    run.epoch_end()
    run.seeds.advance("seed", schedule=AlphaSchedule(epochs=1, target=0.5))
    run.epoch_end()
    train_run(run, zoolet)
    seen[run.capture()] = run.fingerprint
    assert run.surgeon.remove_layer(layer_name="conv2", bridge_strategy="learned").success
    note()
    return seen


def test_a_fresh_process_rebuilds_every_restorable_version_bit_for_bit(url: str) -> None:
    with Engine(url) as engine:
        seen = eventful(attached(engine, CONV_NET, adam), CONV_NET)
    done = subprocess.run(
        [sys.executable, "-c", REPLAY_ALL, url],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    replayed = {int(version): found for version, found in json.loads(done.stdout).items()}
    assert {v: found for v, found in replayed.items() if v in seen} == {
        v: [f, "exact"] for v, f in seen.items()
    }


@pytest.mark.parametrize("zoolet", ZOO, ids=lambda zoolet: zoolet.name)
def test_a_replay_of_the_newest_version_computes_what_the_live_model_does(
    zoolet: Zoolet, engine: Engine
) -> None:
    run = attached(engine, zoolet, adam)
    train_run(run, zoolet, 2)
    run.capture()
    x = zoolet.batch()
    assert torch.equal(engine.replay("model").eval()(x), run.model.eval()(x))


def test_a_replay_is_in_the_training_mode_of_its_capture(engine: Engine) -> None:
    run = attached(engine, NESTED_CNN)
    run.model.eval()
    part_of(run, "1").train()
    run.capture()
    replayed = engine.replay("model")
    assert [path for path, module in replayed.named_modules() if module.training] == ["1"]


def test_a_replay_keeps_what_was_frozen_frozen(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    part_of(run, "0").requires_grad_(False)
    run.capture()
    replayed = engine.replay("model")
    assert [n for n, p in replayed.named_parameters() if not p.requires_grad] == ["0.weight", "0.bias"]


def test_a_version_whose_capture_came_later_is_replayed_exactly(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, momentum)
    train_run(run, NESTED_MLP)
    trained, seen = run.version, run.fingerprint
    run.capture()
    replayed = engine.replay("model", trained)
    assert (replayed.esper_replay.exactness, fingerprint(replayed)) == ("exact", seen)  # type: ignore[union-attr]


def test_a_version_trained_on_without_a_capture_says_that_its_tensors_are_stale(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, momentum)
    train_run(run, NESTED_MLP)
    replay: Any = engine.replay("model").esper_replay
    assert (replay.exactness, replay.capture) == ("stale", 2)


def test_a_stale_replay_has_the_structure_of_its_version(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, momentum, capture=CapturePolicy(before_structural_change=False))
    train_run(run, NESTED_MLP)
    run.surgeon.modify_layer_width(layer_name="0", new_width=12)
    replayed = engine.replay("model")
    assert describe(replayed).fingerprint == run.architecture.fingerprint
    assert replayed.esper_replay.exactness == "stale"  # type: ignore[union-attr]


def test_steps_told_by_step_end_make_the_version_before_them_another_one(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    born = run.version
    with torch.no_grad():
        run.model.get_parameter("0.weight").add_(1.0)
    run.step_end()
    assert run.version == born + 1
    assert engine.replay("model").esper_replay.exactness == "stale"  # type: ignore[union-attr]


def test_without_the_vault_a_replay_is_structural_and_says_so(url: str, tmp_path: Path) -> None:
    with Engine(url) as engine:
        run = attached(engine, CONV_NET, adam)
        eventful(run, CONV_NET)
        architecture = run.architecture.fingerprint
    with Engine(url, vault=tmp_path / "another.vault") as engine:
        replayed = engine.replay("model")
    replay: Any = replayed.esper_replay
    assert describe(replayed).fingerprint == architecture
    assert (replay.exactness, replay.capture) == ("structural", None)
    assert "is not in the vault" in replay.missing


def test_two_structural_replays_are_equal(url: str, tmp_path: Path) -> None:
    with Engine(url) as engine:
        eventful(attached(engine, CONV_NET, adam), CONV_NET)
    with Engine(url, vault=tmp_path / "another.vault") as engine:
        first = engine.replay("model")
        torch.manual_seed(5)
        assert fingerprint(engine.replay("model")) == fingerprint(first)


def test_a_replay_draws_no_random_numbers(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam)
    before = run.state_fingerprint
    engine.replay("model")
    assert run.state_fingerprint == before


def test_a_replayed_module_shares_nothing_with_the_live_one(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP)
    seen = run.fingerprint
    replayed = engine.replay("model")
    with torch.no_grad():
        for parameter in replayed.parameters():
            parameter.zero_()
    assert run.fingerprint == seen


def test_an_unknown_model_or_version_is_named(engine: Engine) -> None:
    attached(engine, NESTED_MLP)
    with pytest.raises(UsageError, match=r"knows no model 'nobody'; it knows: model"):
        engine.replay("nobody")
    with pytest.raises(UsageError, match=r"has no version 7; it has 1 to 2"):
        engine.replay("model", 7)


class Fickle(nn.Module):
    width = 4

    def __init__(self) -> None:
        super().__init__()
        self.only = nn.Linear(6, self.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.only(x)
        return y


def test_a_blueprint_that_builds_something_else_now_is_refused(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    blueprint("tests/fickle")(Fickle)
    attached(engine, Zoolet("fickle", Fickle, (6,), "tests/fickle"))
    monkeypatch.setattr(Fickle, "width", 5)
    with pytest.raises(ReplayError, match=r"another architecture now than the log recorded.*only"):
        engine.replay("model")


def test_a_blueprint_that_is_not_registered_is_named(engine: Engine) -> None:
    blueprint("tests/gone")(Fickle)
    attached(engine, Zoolet("fickle", Fickle, (6,), "tests/gone"))
    unregister("tests/gone")
    with pytest.raises(
        ReplayError, match="names blueprint 'tests/gone', which this program has not registered"
    ):
        engine.replay("model")


def test_a_blueprint_with_arguments_filled_in_may_be_registered_again_and_by_nobody_else() -> None:
    blueprint("tests/filled-in")(partial(nn.Linear, 6))
    blueprint("tests/filled-in")(partial(nn.Linear, 6))
    with pytest.raises(UsageError, match="registered already, as Linear"):
        blueprint("tests/filled-in")(Fickle)


def test_the_log_names_no_python_class(engine: Engine) -> None:
    attached(engine, CUSTOM_MLP)
    registered = engine.history("model")[0].fact
    assert isinstance(registered, ModelRegistered)
    assert {node.kind for node in registered.base.architecture.nodes.values()} == {
        "opaque:CustomMLP",
        "linear",
        "layernorm",
    }


def test_a_vault_can_be_shared_by_logs(tmp_path: Path) -> None:
    vault = Vault.open(tmp_path / "shared.vault")
    with Engine(f"sqlite:///{tmp_path / 'a.db'}", vault=vault) as one:
        run = attached(one, NESTED_MLP)
        seen = run.fingerprint
        other = Engine(f"sqlite:///{tmp_path / 'b.db'}", vault=vault)
        attached(other, NESTED_MLP, model=engine_copy(run))
        assert fingerprint(other.replay("model")) == seen


def engine_copy(run: Run) -> nn.Module:
    copied = NESTED_MLP.build()
    copied.load_state_dict(run.model.state_dict())
    return copied


@pytest.mark.parametrize("use", ["replay", "history", "attach"])
def test_a_log_with_an_altered_surgery_is_not_used(use: str, url: str) -> None:
    with Engine(url) as engine:
        run = attached(engine, CONV_NET)
        assert run.surgeon.modify_layer_width(layer_name="conv1", new_width=9).success
    altered = f"UPDATE facts SET body = replace(CAST(body AS TEXT), '[-1,3]', '[0,3]') WHERE version = {run.version}"
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        for (trigger,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall():
            connection.execute(f"DROP TRIGGER {trigger}")
        connection.execute(altered)
        connection.execute("UPDATE facts SET body = CAST(body AS BLOB)")
    connection.close()
    uses = {
        "replay": lambda again: again.replay("model"),
        "history": lambda again: again.history("model"),
        "attach": lambda again: attached(again, CONV_NET),
    }
    with Engine(url) as again, pytest.raises(IntegrityFailure, match="the row was altered"):
        uses[use](again)
