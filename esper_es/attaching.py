"""Attaching a live model to the log: registering a new name, or resuming one with history."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from attrs import Attribute, evolve, field, frozen
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from esper_es.capture import LoadedCapture, store_capture
from esper_es.domain.architecture import Architecture
from esper_es.domain.canonical import Json, canonical_bytes
from esper_es.domain.constraints import SurgeryConstraints
from esper_es.domain.envelope import Cause, model_id
from esper_es.domain.errors import ReplayError, UsageError
from esper_es.domain.facts import BaseModel, Fact, ModelRegistered, RolledBack, RunResumed
from esper_es.domain.lifecycle import ESPER_LITE, LifecycleProfile
from esper_es.domain.model import Moment, enveloped, folded
from esper_es.domain.policies import CapturePolicy, WatchPolicy
from esper_es.domain.state import ModelState, Restorable
from esper_es.domain.whole_numbers import whole
from esper_es.environment import environment_of
from esper_es.example_inputs import ExampleInputs, normalized
from esper_es.inference_tensors import require_none
from esper_es.ledger.log import Log
from esper_es.planning.layers.depth import DepthMode
from esper_es.planning.observation import observe
from esper_es.projections.live.blueprints import recognized
from esper_es.projections.live.describe import describe, opaque_classes
from esper_es.projections.live.journal import Journal
from esper_es.projections.live.live import Live
from esper_es.projections.live.rebuild import base_module
from esper_es.projections.live.snapshot import PARTS
from esper_es.restoring import capture_anew, restore_live, roll_back
from esper_es.session import Publisher, Session, now
from esper_es.shadow import on_a_copy
from esper_es.stored_examples import store_examples
from esper_es.validators.baseline import memory_estimate
from esper_es.vault import AnyVault


def _of_kind(cls: type) -> Callable[[object, Attribute[Any], object], None]:
    def check(_: object, attribute: Attribute[Any], value: object) -> None:
        if value is not None and not isinstance(value, cls):
            raise UsageError(f"{attribute.name} must be a {cls.__name__}, got {type(value).__name__}")

    return check


@frozen(kw_only=True, eq=False)
class Terms:
    """What the caller of ``attach`` asked for, to be recorded with a new model; None for the default.

    Raises:
        UsageError: if one is of a wrong type.
    """

    blueprint: str | None = field(validator=_of_kind(str))
    blueprint_args: Mapping[str, Json] = field(validator=_of_kind(Mapping))
    constraints: SurgeryConstraints | None = field(validator=_of_kind(SurgeryConstraints))
    capture: CapturePolicy | None = field(validator=_of_kind(CapturePolicy))
    watch: WatchPolicy | None = field(validator=_of_kind(WatchPolicy))
    lifecycle: LifecycleProfile | None = field(validator=_of_kind(LifecycleProfile))


def check_parts(module: object, optimizer: object, scheduler: object, scaler: object, name: object) -> None:
    """Check the types of what is attached.

    Raises:
        UsageError: naming what is wrong.
    """
    if not isinstance(module, nn.Module):
        raise UsageError(f"attach takes an nn.Module, got {type(module).__name__}")
    if isinstance(module, DistributedDataParallel):
        raise UsageError("attach takes the model itself, not its wrapper: give ddp.module")
    if "_orig_mod" in module._modules:
        raise UsageError(
            "attach takes the model itself, not what torch.compile(model) returned; that follows when the model changes"
        )
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise UsageError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
    model_id(name)
    for what, part in (("scheduler", scheduler), ("scaler", scaler)):
        if part is not None and not (hasattr(part, "state_dict") and hasattr(part, "load_state_dict")):
            raise UsageError(f"{what} must have state_dict and load_state_dict, got {type(part).__name__}")
    lazy = [path for path, tensor in module.named_parameters() if isinstance(tensor, UninitializedParameter)]
    if lazy:
        raise UsageError(f"{lazy[0]!r} has no shape yet; run the model once before it is attached")
    require_none(module)


def register(
    log: Log,
    vault: AnyVault,
    live: Live,
    examples: ExampleInputs,
    publisher: Publisher,
    name: str,
    terms: Terms,
    cause: Cause,
) -> Session:
    """Record a new model and its first capture.

    Raises:
        UsageError: if the model can't be rebuilt from the log, or does not run on its example inputs.
        ConflictError: if the name was registered meanwhile.
    """
    base = _base_model(live, examples, terms)
    registered = ModelRegistered(
        name=name,
        base=base,
        constraints=terms.constraints,
        capture=terms.capture or CapturePolicy(),
        watch=terms.watch,
        lifecycle=terms.lifecycle or ESPER_LITE,
        environment=environment_of(live.module),
        examples=store_examples(vault, examples),
    )
    birth = evolve(store_capture(live, vault, "birth"), of_version=1)
    moment = Moment(at=now(), epoch=0, step=0)
    envelopes = enveloped(model_id(name), 0, (registered, birth), cause, moment)
    state = folded(None, envelopes)
    log.append(envelopes)
    session = Session(log=log, vault=vault, live=live, examples=examples, state=state, publisher=publisher)
    session.stand_at(state)
    publisher.publish(envelopes)
    return session


def _base_model(live: Live, examples: ExampleInputs, terms: Terms) -> BaseModel:
    architecture = describe(live.module)
    shown = on_a_copy(live.module, lambda shadow: _shown(shadow, examples, live.optimizer))
    blueprint, arguments = _blueprint(live.module, architecture, terms)
    base = BaseModel(blueprint=blueprint, arguments=arguments, architecture=architecture, **shown)
    _require_rebuildable(base)
    return base


def _shown(shadow: nn.Module, examples: ExampleInputs, optimizer: Optimizer | None) -> dict[str, Any]:
    """What one run of a copy shows of the model: memory in training, depth of the graph, shapes of the outputs."""
    depth = DepthMode(shadow.parameters())
    try:
        with depth:
            observation = observe(shadow, examples)
    except Exception as error:
        raise UsageError(f"the model does not run on its example inputs: {error}") from error
    return {
        "memory_bytes": memory_estimate(shadow, observation.activation_bytes, optimizer),
        "graph_depth": depth.deepest,
        "outputs": tuple(tuple(tensor.shape) for tensor in observation.outputs),
    }


def _blueprint(
    module: nn.Module, architecture: Architecture, terms: Terms
) -> tuple[str | None, dict[str, Json]]:
    """Return what builds the model: as the caller says, or else as a model of a known library says itself."""
    if terms.blueprint is None and terms.blueprint_args:
        raise UsageError("blueprint_args were given without a blueprint")
    name = terms.blueprint
    arguments = {key: whole(value) for key, value in terms.blueprint_args.items()}
    if name is None and opaque_classes(architecture):
        name, arguments = recognized(module) or (None, {})
    try:
        return name, json.loads(canonical_bytes(arguments))
    except (TypeError, ValueError) as error:
        raise UsageError(f"blueprint_args must be JSON with finite numbers: {error}") from None


def _require_rebuildable(base: BaseModel) -> None:
    """Check now that the log will be able to build the model again."""
    if base.blueprint is None and (opaque := opaque_classes(base.architecture)):
        raise UsageError(
            f"the log could not build this model again: no registered layer kind describes {', '.join(opaque)}. "
            "Register a function that builds it, @esper_es.blueprint('my-net') def build(...): ..., and attach with "
            "blueprint='my-net', blueprint_args={...}"
        )
    try:
        base_module(base)
    except ReplayError as error:
        raise UsageError(f"the log could not build this model again: {error}") from error


def resume(
    log: Log,
    vault: AnyVault,
    live: Live,
    examples: ExampleInputs,
    publisher: Publisher,
    state: ModelState,
    cause: Cause,
    fresh: frozenset[str] = frozenset(),
) -> Session:
    """Bring a live model to the state of the log, in place.

    When the last training was not captured, the run goes back to the newest version that was; that is a
    rollback, and recorded as one.

    Raises:
        UsageError: if the model is neither the base model nor of the log's newest structure.
        ReplayError, MissingTensorError, IntegrityFailure: if the state can't be restored; nothing is changed.
    """
    _require_kin(live, state)
    session = Session(
        log=log,
        vault=vault,
        live=live,
        examples=examples,
        state=state,
        publisher=publisher,
        step=state.step,
        fresh=fresh,
    )
    resumed = RunResumed(environment=environment_of(live.module), fresh=tuple(sorted(fresh)))
    source = state.standing
    if source is None:
        rolled_back = _fall_back(session, cause, fresh)
        session.commit(_resuming(session, evolve(resumed, left_out=rolled_back.left_out)), cause)
        return session
    _require_groups(session, source, fresh)
    journal = Journal()
    try:
        left_out = restore_live(session, state, source, journal, fresh)
        envelopes = session.append(_resuming(session, evolve(resumed, left_out=left_out)), cause)
    except BaseException:
        if session.state.version == state.version:
            journal.undo()
        raise
    publisher.publish(envelopes)
    return session


def _resuming(session: Session, resumed: RunResumed) -> tuple[Fact, ...]:
    return (resumed, *capture_anew(session, resumed.fresh, 1))


def _require_groups(session: Session, source: Restorable, fresh: Collection[str]) -> None:
    """Check that the optimizer was built with the groups that it had; later they come and go with the versions."""
    optimizer = session.live.optimizer
    saved = LoadedCapture(session.vault, session.state.captures[source.capture].manifest).document[
        "optimizer"
    ]
    if optimizer is None or saved is None or "optimizer" in fresh:
        return
    if len(optimizer.param_groups) != len(saved["groups"]):
        raise UsageError(
            f"the optimizer has {len(optimizer.param_groups)} parameter groups, the capture has "
            f"{len(saved['groups'])}; build it with the same groups, or attach with fresh=('optimizer',)"
        )


def _fall_back(session: Session, cause: Cause, fresh: Collection[str]) -> RolledBack:
    newest = max(session.state.restorable, default=None)
    if newest is None:
        raise ReplayError(
            f"model {session.state.name!r} has no capture left to resume from; replay it structurally, and attach "
            "the module under another name"
        )
    reason = f"training after version {newest} was not captured"
    _require_groups(session, session.state.restorable[newest], fresh)
    return roll_back(
        session, newest, cause, trigger="resume", reason=reason, capture_first=False, fresh=fresh
    )


def _require_kin(live: Live, state: ModelState) -> None:
    found = describe(live.module)
    if found.fits(state.base.architecture) or found.fits(state.architecture):
        return
    raise UsageError(
        f"the log knows a model {state.name!r}, and this one has another architecture: it is neither its base model "
        f"(version 1) nor its newest version ({state.version}). Attach one of these to resume, or choose another name"
    )


def attached(
    log: Log,
    vault: AnyVault,
    publisher: Publisher,
    live: Live,
    example_inputs: object,
    name: str,
    terms: Terms,
    cause: Cause,
    fresh: Collection[str] = (),
) -> Session:
    """Register a name that the log does not know, or resume one that it does.

    Raises: as ``register`` and ``resume``.
    """
    check_parts(live.module, live.optimizer, live.scheduler, live.scaler, name)
    anew = _parts_named(fresh)
    examples = normalized(example_inputs, live.module)
    state = log.load(model_id(name))
    if state is None:
        return register(log, vault, live, examples, publisher, name, terms, cause)
    _require_same_terms(state, terms)
    return resume(log, vault, live, examples, publisher, state, cause, anew)


def _parts_named(fresh: Collection[str]) -> frozenset[str]:
    named = isinstance(fresh, Collection) and not isinstance(fresh, str)
    if not named or not all(part in PARTS for part in fresh):
        raise UsageError(f"fresh names parts that begin anew, among {', '.join(PARTS)}; got {fresh!r}")
    return frozenset(fresh)


def _require_same_terms(state: ModelState, terms: Terms) -> None:
    """Check that what was asked for is what the log recorded; terms are not changed in passing."""
    asked: dict[str, tuple[object, object]] = {
        "blueprint": (terms.blueprint, state.base.blueprint),
        "constraints": (terms.constraints, state.constraints),
        "capture": (terms.capture, state.capture_policy),
        "watch": (terms.watch, state.watch_policy),
        "lifecycle": (terms.lifecycle, state.lifecycle),
    }
    for name, (wanted, recorded) in asked.items():
        if wanted is not None and wanted != recorded:
            raise UsageError(
                f"model {state.name!r} was registered with {name}={recorded!r}, and now {name}={wanted!r} was "
                f"given; leave {name} out to resume, or register under another name"
            )
