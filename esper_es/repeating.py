"""Surgeries of one model, repeated on another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from attrs import evolve, frozen

from esper_es.domain import surgery_commands
from esper_es.domain.architecture import Architecture, TensorSpec
from esper_es.domain.edits import ResizeTensor, digests_of
from esper_es.domain.envelope import Envelope
from esper_es.domain.errors import Refused
from esper_es.domain.facts import LayerAdded, LayerRemoved, LayerWidthModified, SkipConnectionRemoved
from esper_es.domain.model import folded
from esper_es.domain.state import ModelState
from esper_es.operations import Request, perform
from esper_es.planning.scene import Plan, Scene
from esper_es.projections.metrics import Surgery
from esper_es.result import SurgeryResult
from esper_es.session import Session
from esper_es.vault import AnyVault


@frozen
class RecordedSurgery:
    """A surgery that a log tells of.

    Attributes:
        envelope: its fact, and when and why.
        fact: what was done.
        before: the state of its model that it was done to.
    """

    envelope: Envelope
    fact: Surgery
    before: ModelState


def surgeries_of(state: ModelState, history: Sequence[Envelope]) -> Iterator[RecordedSurgery]:
    """Yield the surgeries that led to a state; those rolled back are not among them.

    Args:
        state: of a model.
        history: its facts, from the first one on.
    """
    path = set(state.lineage.edits_of)
    before: ModelState | None = None
    for envelope in history:
        if before is not None and envelope.version in path and isinstance(envelope.fact, Surgery):
            yield RecordedSurgery(envelope, envelope.fact, before)
        before = folded(before, (envelope,))


def repeat_surgery(session: Session, recorded: RecordedSurgery, vault: AnyVault) -> SurgeryResult:
    """Try a recorded surgery on another run and record it there, edit by edit as it was."""
    envelope, fact = recorded.envelope, recorded.fact
    operation, target, plan = _plan_of(fact)
    digests = {digest for edit in fact.edits for digest in digests_of(edit).values()}
    tensors = {digest: vault.get(digest) for digest in digests}
    repeats = f"repeats version {envelope.version} of {recorded.before.name}: {envelope.cause.reasoning}"
    request = Request(
        operation=operation,
        target=target,
        arguments={"repeats": recorded.before.name, "version": envelope.version},
        cause=evolve(envelope.cause, reasoning=repeats.rstrip(": "), caused_by=None),
    )

    def planner(scene: Scene) -> Plan:
        _require_fitting(recorded, scene.state.architecture)
        proof = _nothing_wrong if _built_alike(recorded.before, scene.state) else None
        return evolve(plan, edits=fact.edits, tensors=tensors, proof=proof)

    return perform(session, request, planner)


def _built_alike(one: ModelState, other: ModelState) -> bool:
    """Whether two models have one structure and are built by the same code with the same arguments, which may count
    heads and the like where no description shows it."""
    built = [(state.base.blueprint, dict(state.base.arguments)) for state in (one, other)]
    return one.architecture.fingerprint == other.architecture.fingerprint and built[0] == built[1]


def _nothing_wrong(_: object) -> tuple[str, ...]:
    """The proof where a surgery was done to the very same structure before."""
    return ()


def _require_fitting(recorded: RecordedSurgery, here: Architecture) -> None:
    """Check that resized tensors are what they were, as far as the edits speak of it: as long along the dimensions that
    change, and, where new entries were recorded, in all others, and of their dtype.

    Raises:
        Refused: naming the first that is not.
    """
    there = _specs(recorded.before.architecture)
    specs = _specs(here)
    for edit in recorded.fact.edits:
        if not isinstance(edit, ResizeTensor) or edit.tensor not in there or edit.tensor not in specs:
            continue
        old, new = there[edit.tensor], specs[edit.tensor]
        stored = edit.fill is not None and edit.fill.digest is not None
        alike = (
            (old.shape, old.dtype) == (new.shape, new.dtype)
            if stored
            else len(old.shape) == len(new.shape) and old.shape[edit.dim] == new.shape[edit.dim]
        )
        if not alike:
            raise Refused(
                f"version {recorded.envelope.version} of {recorded.before.name!r} resized {edit.tensor!r} of shape "
                f"{old.shape} {old.dtype}, which is of shape {new.shape} {new.dtype} here: what was recorded does not "
                "fit. Change the width anew, with modify_layer_width",
                "repeats",
            )


def _specs(architecture: Architecture) -> dict[str, TensorSpec]:
    return dict(architecture.tensors())


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
