"""Random histories of one model: legal facts, drawn one after the other by the domain's own commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from attrs import define, evolve, field
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from esper_es.domain import clock_commands, seed_commands
from esper_es.domain.architecture import Architecture, Connection, ModuleNode, TensorSpec
from esper_es.domain.edits import (
    AddModule,
    Connect,
    Disconnect,
    Edit,
    Initial,
    RemoveModule,
    ReplaceModule,
    ResizeTensor,
    ScaleTensor,
    SetAttribute,
)
from esper_es.domain.envelope import Cause, Envelope, model_id
from esper_es.domain.errors import Refused
from esper_es.domain.evolution import evolved
from esper_es.domain.facts import Effects, Fact, LayerAdded, RolledBack, SurgeryRefused
from esper_es.domain.index_map import IndexMap
from esper_es.domain.model import Moment, enveloped, folded, recorded, restorable
from esper_es.domain.state import ModelState
from esper_es.domain.surgery_commands import Change

from .digits import captured, linear, registration, slot

AT = "2026-11-23T10:00:00.000000+00:00"
SEEDS = ("a", "b")
NAMES = ("p", "q", "r")

FRAGMENTS = (
    Architecture({"": ModuleNode("relu", {"inplace": False})}),
    Architecture({"": linear(4, 4)}),
    Architecture(
        {
            "": ModuleNode("sequential", children=("p", "q", "again")),
            "p": linear(4, 4),
            "q": ModuleNode("linear", {"shape": (4, 4)}, {"bias": TensorSpec((4,), "float16", "buffer")}),
        },
        aliases={"again": "p"},
        ties={"q.weight": "p.weight"},
    ),
)
VALUES = (1, 1.0, True, (1, 2), [1, 2], {"b": 1, "a": [2.5]})
"""Some of them are equal in Python and different in JSON, some the other way round."""


@define
class RandomHistory:
    """A history that grows, and every state on its way, by version."""

    state: ModelState = field(repr=False)
    envelopes: list[Envelope] = field(repr=lambda envelopes: str([e.fact for e in envelopes[1:]]))
    states: dict[int, ModelState] = field(factory=dict, repr=False)

    @classmethod
    def begun(cls) -> RandomHistory:
        birth = enveloped(
            model_id("random"), 0, [registration("random")], Cause(), Moment(at=AT, epoch=0, step=0)
        )
        state = folded(None, birth)
        return cls(state, list(birth), {1: state})

    def record(self, facts: Sequence[Fact]) -> None:
        for fact in facts:
            moment = Moment(at=AT, epoch=self.state.epoch, step=self.state.step)
            self.state, envelopes = recorded(self.state, [fact], Cause(), moment)
            self.envelopes += envelopes
            self.states[self.state.version] = self.state


@st.composite
def histories(draw: DrawFn, *, steps: int = 25) -> RandomHistory:
    """Histories of some steps; a step that is not legal where it comes up is left out."""
    history = RandomHistory.begun()
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=steps // 2, max_size=steps)):
        try:
            history.record(step(draw, history.state))
        except Refused:
            continue
    return history


def _change(draw: DrawFn, state: ModelState) -> Sequence[Fact]:
    edits: list[Edit] = []
    after = state.architecture
    for _ in range(draw(st.integers(1, 3))):
        edit = draw(st.sampled_from(EDITS))(draw, after)
        try:
            after = evolved(after, [edit])
        except ValueError:
            continue
        edits.append(edit)
    capture = captured("before a change", state.version)
    fact = LayerAdded(
        layer_name="p",
        after_layer="first",
        connection_type="sequential",
        kind="relu",
        edits=tuple(edits),
        effects=Effects(optimizer={"p.weight": "new"}, validators={"memory": "valid"}),
        base_capture=state.version + 1,
    )
    return (capture, fact)


def _path(draw: DrawFn, architecture: Architecture) -> str:
    """Any module but those of seeds, whose lives depend on them."""
    paths = [path for path in architecture.nodes if path.split(".")[0] not in SEEDS]
    return draw(st.sampled_from(sorted(paths)))


def _adding(draw: DrawFn, architecture: Architecture) -> Edit:
    parent = _path(draw, architecture)
    after = draw(st.sampled_from([None, *architecture.nodes[parent].children]))
    path = ".".join(filter(None, (parent, draw(st.sampled_from(NAMES)))))
    return AddModule(path, draw(st.sampled_from(FRAGMENTS)), after, Initial(), "first")


def _replacing(draw: DrawFn, architecture: Architecture) -> Edit:
    path = _path(draw, architecture) or "first"
    return ReplaceModule(path, draw(st.sampled_from(FRAGMENTS)), Initial())


def _resizing(draw: DrawFn, architecture: Architecture) -> Edit:
    name = draw(st.sampled_from(sorted(name for name, _ in architecture.tensors()) or [""]))
    gather = IndexMap(((0, draw(st.integers(1, 3))), (-1, draw(st.integers(1, 3)))))
    return ResizeTensor(name, draw(st.integers(0, 1)), gather)


def _connecting(draw: DrawFn, architecture: Architecture) -> Edit:
    order = max((c.order for c in architecture.connections), default=-1) + 1
    source, target = _path(draw, architecture), _path(draw, architecture)
    via = draw(st.none() | st.sampled_from(sorted(architecture.nodes)))
    return Connect(Connection(draw(st.sampled_from(NAMES)), "skip", source, target, via, order, "add"))


def _setting(draw: DrawFn, architecture: Architecture) -> Edit:
    return SetAttribute(draw(st.sampled_from(["", "first"])), "p", draw(st.sampled_from(VALUES)))


EDITS: tuple[Callable[[DrawFn, Architecture], Edit], ...] = (
    _adding,
    _replacing,
    _resizing,
    _connecting,
    _setting,
    lambda draw, architecture: RemoveModule(_path(draw, architecture)),
    lambda draw, architecture: Disconnect(draw(st.sampled_from(NAMES))),
    lambda draw, architecture: ScaleTensor("first.weight", 0.5),
)


def _epoch(draw: DrawFn, state: ModelState) -> Sequence[Fact]:
    ended = clock_commands.end_epoch(state, {"loss": draw(st.floats(0, 1))}, state.step)
    after = folded(
        state, enveloped(state.id, state.version, [ended], Cause(), Moment(at=AT, epoch=0, step=0))
    )
    return (ended, *clock_commands.tick_seeds(after))


def _roll_back(draw: DrawFn, state: ModelState) -> Sequence[Fact]:
    source = restorable(state, draw(st.sampled_from(sorted(state.restorable) or [1])))
    fact = RolledBack(
        to_version=source.version,
        capture_version=source.capture,
        from_version=state.version,
        base_capture=state.version + 1,
        fingerprint="sha256:whole",
        model_fingerprint="sha256:model",
        expected_fingerprint=draw(st.sampled_from([None, "sha256:whole"])),
        epochs_discarded=0,
        steps_discarded=0,
        trigger="asked",
        reason="",
    )
    return (captured("before rollback", state.version), fact)


def _live(draw: DrawFn, state: ModelState) -> Sequence[Fact]:
    """Take a step of a seed's life that its stage allows."""
    seed = draw(st.sampled_from(SEEDS))
    if seed not in state.seeds:
        return seed_commands.plant(state, seed, "first")
    return draw(st.sampled_from(LIVES.get(state.seeds[seed].stage, (_wait,))))(state, seed)


def _wait(state: ModelState, seed: str) -> Sequence[Fact]:
    return ()


def _germinate(state: ModelState, seed: str) -> Sequence[Fact]:
    change = Change(edits=(slot(seed),), effects=Effects(), capture=captured())
    return seed_commands.germinate(state, seed, change, kernel="mlp", arguments={"width": 8}, evidence={})


def _advance(state: ModelState, seed: str) -> Sequence[Fact]:
    return seed_commands.advance(state, seed, "advance", evidence={"gain": 0.5}, override="hurry")


def _set_alpha(state: ModelState, seed: str) -> Sequence[Fact]:
    return seed_commands.set_alpha(state, seed, 0.5)


def _blend_again(state: ModelState, seed: str) -> Sequence[Fact]:
    return seed_commands.advance(state, seed, "blend", evidence={})


def _cull(state: ModelState, seed: str) -> Sequence[Fact]:
    change = Change(edits=(RemoveModule(seed),), effects=Effects(), capture=captured())
    return seed_commands.cull(state, seed, change, reason="no gain")


def _fossilize(state: ModelState, seed: str) -> Sequence[Fact]:
    edits = (ReplaceModule(seed, FRAGMENTS[1], Initial(), keep="kernel"),)
    change = Change(edits=edits, effects=Effects(), capture=captured())
    return seed_commands.fossilize(state, seed, change, layer=seed, evidence={}, override="hurry")


LIVES: Mapping[str, tuple[Callable[[ModelState, str], Sequence[Fact]], ...]] = {
    "DORMANT": (_germinate,),
    "GERMINATED": (_advance, _advance, _cull),
    "TRAINING": (_advance, _advance, _cull),
    "BLENDING": (_set_alpha, _cull),
    "HOLDING": (_fossilize, _fossilize, _blend_again, _cull),
}


STEPS: tuple[Callable[[DrawFn, ModelState], Sequence[Fact]], ...] = (
    *(_change,) * 4,
    *(_live,) * 6,
    *(_epoch,) * 2,
    *(_roll_back,) * 3,
    lambda draw, state: (captured("asked", state.version),),
    lambda draw, state: clock_commands.release_captures(
        evolve(state, capture_policy=evolve(state.capture_policy, keep_last=1))
    ),
    lambda draw, state: (
        SurgeryRefused(operation="add_layer", target="p", arguments={}, check="edits", reason="no\0"),
    ),
)
