"""Tables of rotary positions in one tensor, of whatever form: they go on as they began, or a refusal names them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from esper_es import Engine, fingerprint

from .rotary_models import FORMS, rotary, sines_and_cosines
from .test_width_head_size import ROUNDING, Heads, attached, first, moved, outputs, refusal, sized
from .transformer_models import Transformer, trained

forms = pytest.mark.parametrize("form", FORMS)
FREQUENCIES = [1, 1e-1, 1e-2, 1e-3]
COARSE = 0.1
"""How far frequencies are off in a table in bfloat16."""


def frequencies(form: str, table: Tensor) -> list[float]:
    sines, cosines = sines_and_cosines(form, table)
    found: list[float] = torch.atan2(sines.reshape(12, -1)[1], cosines.reshape(12, -1)[1]).tolist()
    return found


@forms
def test_larger_heads_compute_what_they_did(form: str, engine: Engine) -> None:
    run = attached(engine, rotary(form))
    before = outputs(run)
    sized(run, Heads(rotary(form), "qkv"), 12)
    assert moved(before, outputs(run)) <= ROUNDING


@forms
def test_old_pairs_keep_their_frequencies_and_new_ones_go_on(form: str, engine: Engine) -> None:
    run = attached(engine, rotary(form))
    sized(run, Heads(rotary(form), "qkv"), 12)
    expected = pytest.approx([*FREQUENCIES, 1e-4, 1e-5], rel=COARSE if form == "coarse" else 1e-4)
    assert frequencies(form, run.model.table) == expected


@forms
def test_a_table_that_was_lengthened_is_cut_to_what_it_was(form: str, engine: Engine) -> None:
    run = attached(engine, rotary(form))
    before, table = outputs(run), run.model.table.clone()
    sized(run, Heads(rotary(form), "qkv"), 12)
    sized(run, Heads(rotary(form), "qkv"), 8, importance=first)
    assert torch.equal(run.model.table, table)
    assert moved(before, outputs(run)) <= ROUNDING


@pytest.mark.parametrize("size", [12, 4], ids=["larger", "smaller"])
@forms
def test_they_train_replay_and_roll_back_exactly(form: str, size: int, engine: Engine) -> None:
    run = attached(engine, rotary(form))
    run.capture()
    old, version, before = run.fingerprint, run.version, outputs(run)
    sized(run, Heads(rotary(form), "qkv"), size)
    trained(run, 20)
    run.capture()
    replayed = engine.replay(rotary(form).name)
    assert (replayed.esper_replay.exact, fingerprint(replayed)) == (True, run.fingerprint)
    run.rollback(to_version=version)
    assert run.fingerprint == old
    assert moved(before, outputs(run)) == 0.0


def complaint(engine: Engine, model: Transformer) -> str:
    run = model.attached(engine)
    before = run.state_fingerprint
    said = refusal(run, "qkv", 12)
    assert run.state_fingerprint == before
    return said


@forms
def test_a_table_that_no_surgery_reaches_is_named(form: str, engine: Engine) -> None:
    assert "kept as a plain attribute: table (" in complaint(engine, rotary(form, "plain"))


def test_a_table_in_a_list_is_named(engine: Engine) -> None:
    assert "tables[0] (12 x 4, complex64)" in complaint(engine, rotary("complex", "list"))


def test_a_refusal_says_where_a_table_would_be_in_reach(engine: Engine) -> None:
    assert "register_buffer" in complaint(engine, rotary("stacked", "plain"))


def test_numbers_that_turn_heads_out_of_sight_are_spoken_of(engine: Engine) -> None:
    assert "no buffer was recognized as their table" in complaint(engine, rotary("complex", "code"))
