"""One model's history, put to use for another: forks, and surgeries repeated."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from attrs import evolve

from esper_es.domain import surgery_commands
from esper_es.domain.edits import digests_of
from esper_es.domain.envelope import Envelope
from esper_es.domain.errors import UsageError
from esper_es.domain.facts import (
    Fact,
    LayerAdded,
    LayerRemoved,
    LayerWidthModified,
    ModelRegistered,
    SeedInherited,
    SkipConnectionRemoved,
    StateCaptured,
)
from esper_es.domain.lifecycle import ABSENT, PERMANENT
from esper_es.domain.state import ModelState, Seed
from esper_es.operations import Request, perform
from esper_es.planning.scene import Plan, Scene
from esper_es.projections.metrics import Surgery
from esper_es.rebuilding import edits_by_version, inherited_edits
from esper_es.result import SurgeryResult
from esper_es.session import Session
from esper_es.vault import AnyVault


def forked(state: ModelState, history: Sequence[Envelope], name: str) -> tuple[Fact, ...]:
    """Return the first facts of a model that begins where another is.

    Raises:
        UsageError: if that version can't be restored exactly.
    """
    source = state.restorable.get(state.version)
    if source is None:
        versions = ", ".join(str(v) for v in sorted(state.restorable)[-5:]) or "none"
        raise UsageError(
            f"version {state.version} of {state.name!r} has no capture to fork from; the last that have one: {versions}"
        )
    path = source.lineage.edits_of
    before = path[: len(path) - len(source.edits_of)]
    edits = edits_by_version(history)
    registered = next(e.fact for e in history if isinstance(e.fact, ModelRegistered))
    birth = next(e.fact for e in history if e.version == source.capture and isinstance(e.fact, StateCaptured))
    captured = (
        state.restorable[source.capture].lineage if source.capture in state.restorable else source.lineage
    )
    base = evolve(registered.base, memory_bytes=captured.memory_bytes, graph_depth=captured.graph_depth)
    facts: list[Fact] = [
        evolve(
            registered,
            name=name,
            base=base,
            edits=(*inherited_edits(history), *(edit for v in before for edit in edits[v])),
            forked_from=(state.name, state.version),
        ),
        evolve(birth, of_version=1, reason=f"fork of {state.name} at version {state.version}"),
    ]
    inherited = [_inherited(state, seed) for seed in state.seeds.values()]
    facts += inherited
    for envelope in history:
        if envelope.version in source.edits_of and isinstance(envelope.fact, Surgery):
            facts.append(evolve(envelope.fact, base_capture=2))
    if len(facts) != 2 + len(inherited) + len(source.edits_of):
        raise UsageError(
            f"version {state.version} of {state.name!r} is a step of a seed's life; fork from a capture instead: "
            f"version {source.capture} is the one before it"
        )
    return tuple(facts)


def _inherited(state: ModelState, seed: Seed) -> SeedInherited:
    mode = state.lifecycle.mode(seed.stage)
    outcome = "growing"
    if mode == PERMANENT:
        outcome = "fossilized"
    elif mode == ABSENT:
        outcome = "dormant" if seed.kernel is None else "culled"
    return SeedInherited(
        seed=seed.id,
        layer=seed.layer,
        stage=seed.stage,
        outcome=outcome,
        kernel=seed.kernel,
        arguments=seed.arguments,
        path=seed.path,
        alpha=seed.alpha,
        schedule=seed.schedule,
        epochs_in_stage=state.epoch - seed.entered_epoch,
        epochs_in_ramp=state.epoch - seed.ramp_epoch if seed.schedule is not None else 0,
    )


def surgeries_of(state: ModelState, history: Sequence[Envelope]) -> tuple[Envelope, ...]:
    """Return the surgeries that led to a state; those rolled back are not among them."""
    path = set(state.lineage.edits_of)
    return tuple(e for e in history if e.version in path and isinstance(e.fact, Surgery))


def repeat_surgery(session: Session, envelope: Envelope, source: str, vault: AnyVault) -> SurgeryResult:
    """Try a recorded surgery on another run and record it there, edit by edit as it was."""
    fact = envelope.fact
    if not isinstance(fact, Surgery):
        raise UsageError(f"version {envelope.version} of {source!r} is no surgery")
    operation, target, plan = _plan_of(fact)
    digests = {digest for edit in fact.edits for digest in digests_of(edit).values()}
    tensors = {digest: vault.get(digest) for digest in digests}
    request = Request(
        operation=operation,
        target=target,
        arguments={"repeats": source, "version": envelope.version},
        cause=evolve(
            envelope.cause,
            reasoning=f"repeats version {envelope.version} of {source}: {envelope.cause.reasoning}".rstrip(
                ": "
            ),
            caused_by=None,
        ),
    )

    def planner(scene: Scene) -> Plan:
        return evolve(plan, edits=fact.edits, tensors=tensors)

    return perform(session, request, planner)


def _plan_of(fact: Surgery) -> tuple[str, str, Plan]:
    """Return operation, target and a plan without edits for a recorded surgery."""
    if isinstance(fact, LayerAdded):
        command = partial(
            surgery_commands.add_layer,
            layer_name=fact.layer_name,
            after_layer=fact.after_layer,
            connection_type=fact.connection_type,
            kind=fact.kind,
        )
        return "add_layer", fact.layer_name, Plan(edits=(), facts=command, executes=(fact.layer_name,))
    if isinstance(fact, LayerRemoved):
        remove = partial(
            surgery_commands.remove_layer,
            layer_name=fact.layer_name,
            bridge_strategy=fact.bridge_strategy,
            adapter_added=fact.adapter_added,
            bridge_r2=fact.bridge_r2,
        )
        return "remove_layer", fact.layer_name, Plan(edits=(), facts=remove)
    if isinstance(fact, LayerWidthModified):
        resize = partial(
            surgery_commands.modify_layer_width,
            layer_name=fact.layer_name,
            old_width=fact.old_width,
            new_width=fact.new_width,
            initialization=fact.initialization,
            kept_units=fact.kept_units,
            dimension=fact.dimension,
            units=fact.units,
            method=fact.method,
        )
        return "modify_layer_width", fact.layer_name, Plan(edits=(), facts=resize)
    if isinstance(fact, SkipConnectionRemoved):
        part = partial(
            surgery_commands.remove_skip_connection,
            from_layer=fact.from_layer,
            to_layer=fact.to_layer,
            connection_id=fact.connection_id,
        )
        return "remove_skip_connection", fact.to_layer, Plan(edits=(), facts=part)
    skip = partial(
        surgery_commands.add_skip_connection,
        from_layer=fact.from_layer,
        to_layer=fact.to_layer,
        connection_type=fact.connection_type,
        connection_id=fact.connection_id,
        projection=fact.projection,
    )
    return "add_skip_connection", fact.to_layer, Plan(edits=(), facts=skip)
