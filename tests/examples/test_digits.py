"""The main job, and the proof at its end."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from digits_model import BLUEPRINT, NAME, START, digits_cnn
from digits_record import Place, Recorder
from digits_task import Digits, digits, train_epoch
from prove import verdict_of

from esper_es import Engine
from esper_es.domain.facts import (
    Fact,
    LayerAdded,
    LayerRemoved,
    LayerWidthModified,
    RolledBack,
    SeedCulled,
    SeedFossilized,
    SkipConnectionAdded,
    SurgeryRefused,
    WatchClosed,
)

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def data() -> Digits:
    return digits()


@pytest.fixture
def place(tmp_path: Path, data: Digits) -> Place:
    """A run of one epoch, one surgery and one rollback."""
    place = Place(tmp_path)
    model = digits_cnn(**START)
    optimizer = torch.optim.AdamW(model.parameters())
    with Engine(place.url) as engine:
        run = engine.attach(
            model, NAME, data.train.pixels[:2], optimizer, blueprint=BLUEPRINT, blueprint_args=START
        )
        recorder = Recorder.of(engine, run, data.test, place.record)
        engine.subscribe(recorder)
        train_epoch(model, optimizer, data.train, seed=0, epoch=1)
        recorder.look()
        run.epoch_end({"val_acc": 0.5})
        widened = run.surgeon.modify_layer_width(layer_name="hidden", new_width=20)
        assert widened.undo_version is not None
        assert run.rollback(widened.undo_version)
    return place


def forged(place: Place, key: str, value: str) -> Place:
    """Replace the last value of this key in what the run wrote down."""
    entries = [json.loads(line) for line in place.record.read_text().splitlines()]
    last = max(index for index, entry in enumerate(entries) if key in entry)
    assert entries[last][key] != value
    entries[last][key] = value
    place.record.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return place


def test_a_run_is_proven_from_its_log(place: Place) -> None:
    assert verdict_of(place)


def test_another_prediction_is_noticed(place: Place) -> None:
    zeros = base64.b64encode(bytes(4 * 10 * 360)).decode()
    assert not verdict_of(forged(place, "logits", zeros))


def test_another_tensor_is_noticed(place: Place) -> None:
    assert not verdict_of(forged(place, "fingerprint", "sha256:0"))


def test_another_architecture_is_noticed(place: Place) -> None:
    assert not verdict_of(forged(place, "architecture", "sha256:0"))


def test_a_version_that_the_run_did_not_write_down_is_noticed(place: Place) -> None:
    lines = place.record.read_text().splitlines(keepends=True)
    place.record.write_text("".join(line for line in lines if json.loads(line)["version"] != 1))
    assert not verdict_of(place)


def test_clearing_leaves_what_is_not_of_the_run(place: Place) -> None:
    notes = place.directory / "notes.txt"
    notes.touch()
    place.clear()
    assert list(place.directory.iterdir()) == [notes]


@pytest.mark.slow
def test_the_main_job_shows_everything_and_proves_it(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "digits.py"), "--quick", "--out", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    with Engine(Place(tmp_path / "out" / "seed-0").url) as engine:
        happened = Counter(type(envelope.fact) for envelope in engine.history(NAME))
    shown: tuple[type[Fact], ...] = (
        LayerAdded,
        LayerRemoved,
        LayerWidthModified,
        SkipConnectionAdded,
        SeedFossilized,
        SeedCulled,
        SurgeryRefused,
        WatchClosed,
        RolledBack,
    )
    assert not [kind.__name__ for kind in shown if not happened[kind]]
