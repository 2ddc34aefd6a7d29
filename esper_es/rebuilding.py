"""Rebuilding modules from the log: at any version, exactly where tensors were captured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import evolve, frozen
from torch import nn

from esper_es.capture import LoadedCapture
from esper_es.domain.edits import Edit
from esper_es.domain.envelope import Envelope
from esper_es.domain.errors import MissingTensorError, ReplayError
from esper_es.domain.facts import ModelRegistered
from esper_es.domain.state import ModelState, Restorable
from esper_es.projections.live.describe import describe
from esper_es.projections.live.journal import Journal
from esper_es.projections.live.live import Live
from esper_es.projections.live.material import Blank, Derived, Recorded
from esper_es.projections.live.rebuild import base_module, follow
from esper_es.projections.live.snapshot import put_back_module
from esper_es.vault import AnyVault

EXACT = "exact"
STALE = "stale"
STRUCTURAL = "structural"


@frozen(kw_only=True)
class Replay:
    """What a replayed module is; it is the attribute ``esper_replay`` of the module.

    Attributes:
        name: of the model.
        version: rebuilt.
        exactness: ``"exact"``: every tensor has the bytes it had at the version. ``"stale"``: the version was
            trained on without a capture; tensors come from the nearest capture before, and the surgeries since
            were applied to them. ``"structural"``: no tensors could be had; everything was initialised again
            from the recorded seeds.
        capture: version of the capture that the tensors come from; None for a structural replay.
        missing: why there are no tensors, for a structural replay.
    """

    name: str
    version: int
    exactness: str
    capture: int | None
    missing: str = ""

    @property
    def exact(self) -> bool:
        return self.exactness == EXACT


def edits_by_version(history: Iterable[Envelope]) -> dict[int, tuple[Edit, ...]]:
    """Return the edits of every fact that has any."""
    return {e.version: e.fact.edits for e in history if getattr(e.fact, "edits", ())}  # type: ignore[union-attr]


def inherited_edits(history: Iterable[Envelope]) -> tuple[Edit, ...]:
    """Return the edits that a forked model inherited at its registration."""
    return next((e.fact.edits for e in history if isinstance(e.fact, ModelRegistered)), ())


def blank_module(
    state: ModelState,
    inherited: tuple[Edit, ...],
    edits: Mapping[int, tuple[Edit, ...]],
    versions: Iterable[int],
) -> nn.Module:
    """Build the structure after the edits of ``versions``; tensors hold anything.

    Raises:
        ReplayError: if the base model can't be built or an edit does not fit.
    """
    module = base_module(state.base)
    follow(module, inherited, Blank())
    for version in versions:
        follow(module, edits[version], Blank())
    return module


def exact_module(
    state: ModelState,
    history: tuple[Envelope, ...],
    source: Restorable,
    capture: LoadedCapture,
    vault: AnyVault,
) -> nn.Module:
    """Rebuild a version bit for bit: structure up to its capture, the capture's tensors, then the edits after it.

    Raises:
        ReplayError, MissingTensorError, IntegrityFailure: if it can't be done.
    """
    edits = edits_by_version(history)
    before = source.lineage.edits_of
    if source.edits_of:
        before = before[: -len(source.edits_of)]
    module = blank_module(state, inherited_edits(history), edits, before)
    put_back_module(Live(module), capture.document, capture.tensor, Journal())
    for version in source.edits_of:
        follow(module, edits[version], Recorded(vault))
    return module


def replayed(
    state: ModelState, history: tuple[Envelope, ...], vault: AnyVault | None
) -> tuple[nn.Module, Replay]:
    """Rebuild a model at the version of ``state``.

    Args:
        state: folded up to the version.
        history: at least the registration and the facts whose edits lead to the version.
        vault: where tensors are; without it, or when it lacks them, the replay is structural.

    Raises:
        ReplayError: if the structure can't be rebuilt.
        IntegrityFailure: if tensors are there, but damaged.
    """
    module, report = _with_tensors(state, history, vault)
    if not describe(module).fits(state.architecture):
        raise ReplayError(f"version {state.version} came out with another architecture than the log says")
    return module, report


def _with_tensors(
    state: ModelState, history: tuple[Envelope, ...], vault: AnyVault | None
) -> tuple[nn.Module, Replay]:
    missing = "no vault was given"
    if vault is not None:
        try:
            return _from_captures(state, history, vault)
        except MissingTensorError as error:
            missing = str(error)
    return _structural(state, history), Replay(
        name=state.name, version=state.version, exactness=STRUCTURAL, capture=None, missing=missing
    )


def _from_captures(
    state: ModelState, history: tuple[Envelope, ...], vault: AnyVault
) -> tuple[nn.Module, Replay]:
    source = state.restorable.get(state.version) or state.standing
    exactness = EXACT
    if source is None:
        exactness = STALE
        source = nearest_on_lineage(state)
    if source is None:
        raise MissingTensorError(f"no capture before version {state.version} is left")
    capture = LoadedCapture(vault, state.captures[source.capture].manifest)
    module = exact_module(state, history, source, capture, vault)
    edits = edits_by_version(history)
    since = state.lineage.edits_of[len(source.lineage.edits_of) :]
    for version in since:
        follow(module, edits[version], Recorded(vault))
    return module, Replay(name=state.name, version=state.version, exactness=exactness, capture=source.capture)


def with_captures_of(newest: ModelState, state: ModelState) -> ModelState:
    """Return the state at a version, which knows the captures made of it later, and not those given up since."""
    restorable = {v: r for v, r in newest.restorable.items() if v <= state.version}
    standing = state.standing if state.standing and state.standing.capture in newest.captures else None
    return evolve(state, restorable=restorable, captures=newest.captures, standing=standing)


def nearest_on_lineage(state: ModelState) -> Restorable | None:
    """Return the newest restorable version whose edits are a beginning of those that lead to the state."""
    path = state.lineage.edits_of
    fitting = [r for r in state.restorable.values() if path[: len(r.lineage.edits_of)] == r.lineage.edits_of]
    return max(fitting, key=lambda r: r.version, default=None)


def _structural(state: ModelState, history: tuple[Envelope, ...]) -> nn.Module:
    module = base_module(state.base)
    edits = edits_by_version(history)
    material = Derived()
    follow(module, inherited_edits(history), material)
    for version in state.lineage.edits_of:
        follow(module, edits[version], material)
    return module
