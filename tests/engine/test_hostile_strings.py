"""Whatever strings come in, each is taken as it is or refused in words that can be printed; nothing half-happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import NESTED_MLP
from torch import nn
from training import adam, attached

from esper_es import AdaptationDecision, AlphaSchedule, Engine, EsperError, Run, WatchPolicy
from esper_es.domain.envelope import Cause
from esper_es.projections.live.rng import preserved_rng

from .photograph import differences, photograph

ODD = ("\ud800", "a\udfffb", "\0", "a\0b", "\n", "\x1b[31m", "\u202e", "\ufeff", " ", "", "..", "__class__")
STRINGS = st.one_of(
    st.sampled_from(ODD),
    st.text(st.characters(codec=None, exclude_categories=()), max_size=8),
    st.text(min_size=250, max_size=260),
)
HOSTILE = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

Act = Callable[[Engine, Run, str], Any]
NEW = {"new_layer": nn.ReLU()}


def decided(run: Run, text: str) -> Any:
    decision = AdaptationDecision(
        decision_id=text,
        layer_name=text,
        adaptation_type="remove_layer",
        confidence=0.5,
        reasoning=text,
        actor=text,
        metadata={text: text},
    )
    return run.apply(decision)


def caused(text: str) -> Cause:
    return Cause(actor=text, reasoning=text, decision_id=text)


TAKEN: dict[str, Act] = {
    "the name of a model": lambda e, r, s: attached(e, NESTED_MLP, name=s),
    "a blueprint": lambda e, r, s: e.attach(NESTED_MLP.build(), "new", (NESTED_MLP.batch(),), blueprint=s),
    "a watched metric": lambda e, r, s: attached(e, NESTED_MLP, name="new", watch=WatchPolicy(metric=s)),
    "the name of a fork": lambda e, r, s: e.fork("model", name=s),
    "the source of a fork": lambda e, r, s: e.fork(s, name="new"),
    "the source of surgeries": lambda e, r, s: e.replay_surgeries(s, r),
    "a model to replay": lambda e, r, s: e.replay(s),
    "a model to tell of": lambda e, r, s: e.history(s),
    "the id of a seed": lambda e, r, s: r.seeds.plant(s, "0"),
    "the layer of a seed": lambda e, r, s: r.seeds.plant("new", s),
    "a kernel": lambda e, r, s: r.seeds.germinate("seed", s),
    "an argument of a kernel": lambda e, r, s: r.seeds.germinate("seed", "mlp", **{s: 2}),
    "the name of evidence": lambda e, r, s: r.seeds.germinate("seed", "mlp", evidence={s: 2.0}),
    "an override": lambda e, r, s: r.seeds.germinate("seed", "mlp", override=s),
    "the cause of a planting": lambda e, r, s: r.seeds.plant("new", "0", cause=caused(s)),
    "a seed to advance": lambda e, r, s: r.seeds.advance(s),
    "a curve": lambda e, r, s: r.seeds.advance("seed", schedule=AlphaSchedule(curve=s)),
    "a seed to cull": lambda e, r, s: r.seeds.cull(s, reason=s),
    "the name of a layer": lambda e, r, s: r.surgeon.add_layer(after_layer="0", layer_name=s, **NEW),
    "the place of a layer": lambda e, r, s: r.surgeon.add_layer(after_layer=s, layer_name="new", **NEW),
    "the type of a layer": lambda e, r, s: r.surgeon.add_layer(None, "0", {"type": s}, "new"),
    "an argument of a layer": lambda e, r, s: r.surgeon.add_layer(None, "0", {"type": "relu", s: s}, "new"),
    "a mode of a layer": lambda e, r, s: r.surgeon.add_layer(
        None, "0", {"type": "conv1d", "in_channels": 8, "out_channels": 8, "padding_mode": s}, "new"
    ),
    "a connection": lambda e, r, s: r.surgeon.add_layer(None, "0", nn.ReLU(), "new", s),
    "a layer to remove": lambda e, r, s: r.surgeon.remove_layer(layer_name=s),
    "a bridge": lambda e, r, s: r.surgeon.remove_layer(layer_name="0", bridge_strategy=s),
    "a layer to widen": lambda e, r, s: r.surgeon.modify_layer_width(layer_name=s, new_width=9),
    "an initialization": lambda e, r, s: r.surgeon.modify_layer_width(None, "0", 9, s),
    "the cause of a surgery": lambda e, r, s: r.surgeon.modify_layer_width(None, "0", 9, cause=caused(s)),
    "ends of a skip": lambda e, r, s: r.surgeon.add_skip_connection(from_layer=s, to_layer=s),
    "the name of a metric": lambda e, r, s: r.epoch_end({s: 0.5}),
    "the reason of a capture": lambda e, r, s: r.capture(reason=s, cause=caused(s)),
    "the reason of a rollback": lambda e, r, s: r.rollback(2, reason=s),
    "a version": lambda e, r, s: r.rollback(s),  # type: ignore[arg-type]
    "a decision": lambda e, r, s: decided(r, s),
}


def tried(engine: Engine, place: str, text: str) -> None:
    """Give a string in; if that raises, it must be in words, and nothing may have happened."""
    run = attached(engine, NESTED_MLP, adam)
    run.seeds.plant("seed", "0")
    before, version, names = photograph(run), run.version, engine.names()
    try:
        with preserved_rng():
            TAKEN[place](engine, run, text)
    except (EsperError, ValueError) as raised:
        error = raised
    else:
        return
    str(error).encode()
    assert not isinstance(error, UnicodeError), error
    assert differences(before, photograph(run)) == []
    assert (run.version, engine.names(), engine.state("model")) == (version, names, run.state)


@pytest.mark.parametrize("text", ["\ud800", "a\0b"], ids=ascii)
@pytest.mark.parametrize("place", TAKEN)
def test_strings_that_encodings_or_databases_choke_on_are_taken_or_refused_in_words(
    place: str, text: str, engine: Engine
) -> None:
    tried(engine, place, text)


@given(place=st.sampled_from([*TAKEN]), text=STRINGS)
@HOSTILE
def test_any_string_is_taken_or_refused_in_words(place: str, text: str) -> None:
    with Engine() as engine:
        tried(engine, place, text)


NAMES = st.text(st.characters(), min_size=1, max_size=255).filter(
    lambda name: name.isprintable() and name.strip()
)


@given(name=NAMES)
@settings(HOSTILE, max_examples=15)
def test_any_printable_name_is_a_name(name: str) -> None:
    with Engine() as engine:
        attached(engine, NESTED_MLP, name=name)
        assert engine.names() == (name,)
        assert engine.state(name).name == name
