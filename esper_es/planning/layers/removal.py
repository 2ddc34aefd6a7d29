"""Planning ``remove_layer``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import nn

from esper_es.domain import rules
from esper_es.domain.architecture import relative_path, split_path
from esper_es.domain.edits import Disconnect, Edit, Fill, Initial, RemoveModule
from esper_es.domain.errors import Refused, UsageError
from esper_es.domain.surgery_commands import remove_layer
from esper_es.example_inputs import ExampleInputs
from esper_es.planning.layers.adapters import Quality, adapter, fitted, spatial_dims
from esper_es.planning.layers.around_removal import going_with, projection_inside, replacing
from esper_es.planning.layers.bypassing import Stream, input_of, stand_in, streams_through
from esper_es.planning.layers.own_results import observed
from esper_es.planning.layers.placement import is_sequential
from esper_es.planning.layers.side_outputs import require_unmissed
from esper_es.planning.observation import Observation, observe, reads_of
from esper_es.planning.scene import NewModule, Plan, Scene, new_module
from esper_es.projections.live.build import fragment_of
from esper_es.projections.live.initializers import seeded
from esper_es.projections.live.names import module_at

BRIDGE_STRATEGIES = ("direct", "learned")


def plan_remove_layer(
    scene: Scene, *, layer_name: str, bridge_strategy: str, calibration: Sequence[ExampleInputs] = ()
) -> Plan:
    """Take a layer out and bridge the gap.

    ``direct`` lets the layer's input through; where shapes differ, an adapter that starts as a cut or padded
    identity stands in. ``learned`` puts an affine adapter there, fitted by ridge regression to what the layer
    did on the example inputs and the calibration batches.

    Raises:
        UsageError: for an unknown strategy.
        Refused: if the layer is unknown, never runs, is shared, holds a seed, or no adapter maps its shapes.
    """
    if bridge_strategy not in BRIDGE_STRATEGIES:
        raise UsageError(f"bridge_strategy is one of {', '.join(BRIDGE_STRATEGIES)}, got {bridge_strategy!r}")
    rules.check_frequency(scene.state)
    rules.check_layers_removed(scene.state)
    scene.require_layer(layer_name)
    scene.require_outside_seeds(layer_name, slot_too=True)
    _require_no_seed_inside(scene, layer_name)
    _require_unshared(scene, layer_name)
    leaving = going_with(scene, layer_name)
    if bridge_strategy == "learned":
        _require_no_projection(scene, layer_name)
    first = observed(scene.shadow, layer_name, lambda: scene.observe(take=[layer_name]))
    observations = [first, *(_calibrated(scene, batch, layer_name) for batch in calibration)]
    streams = streams_through(first, layer_name)
    if bridge_strategy == "direct" and streams[0].fits:
        edits = (*leaving, *_direct_edits(scene, first, layer_name, streams[0]))
        return _plan(scene, layer_name, bridge_strategy, edits, {}, None, False)
    bridge, quality = _bridge(scene, observations, layer_name, streams, bridge_strategy)
    edits = (*leaving, replacing(scene, layer_name, bridge.fragment, bridge.initial))
    return _plan(scene, layer_name, bridge_strategy, edits, bridge.tensors, quality, True)


def _calibrated(scene: Scene, batch: ExampleInputs, layer_name: str) -> Observation:
    try:
        return observed(scene.shadow, layer_name, lambda: observe(scene.shadow, batch, take=[layer_name]))
    except Exception as error:
        raise UsageError(f"the model does not run on a batch of calibration: {error}") from error


def _plan(
    scene: Scene,
    layer_name: str,
    bridge_strategy: str,
    edits: tuple[Edit, ...],
    tensors: Mapping[str, torch.Tensor],
    quality: Quality | None,
    adapter_added: bool,
) -> Plan:
    details = {"layer_name": layer_name, "bridge_strategy": bridge_strategy, "adapter_added": adapter_added}
    fit = {} if quality is None else _told(quality)
    return Plan(
        edits=edits,
        tensors=tensors,
        executes=(layer_name,) if adapter_added else (),
        details={**details, **fit},
        facts=partial(
            remove_layer,
            layer_name=layer_name,
            bridge_strategy=bridge_strategy,
            adapter_added=adapter_added,
            bridge_r2=None if quality is None else quality.r2,
        ),
    )


def _told(quality: Quality) -> dict[str, float | None]:
    """How well a bridge was fitted. Rows that are too few to hold any out are met whatever the layer did, so that the
    outputs on them say nothing of the function."""
    told = {"bridge_r2": quality.r2, "bridge_r2_held_out": quality.held_out}
    return told if quality.held_out is not None else {**told, "function_preserved": None}


def _require_no_seed_inside(scene: Scene, path: str) -> None:
    """A seed on the layer itself keeps its place, for something will stand there; one inside would lose it, but in what
    stays."""
    kept = projection_inside(scene, path)
    for seed in scene.seeds_on(path):
        if seed.layer != path and (kept is None or relative_path(seed.layer, kept) is None):
            raise Refused(
                f"seed {seed.id!r} ({seed.stage}) stands on {seed.layer!r}, which would go with {path!r}; remove "
                "the layers around it instead",
                "seed",
            )


def _require_unshared(scene: Scene, path: str) -> None:
    architecture = scene.state.architecture
    inside = set(architecture.descendants(path))
    shared = [
        alias for alias, target in architecture.aliases.items() if target in inside and alias not in inside
    ]
    if shared:
        raise Refused(
            f"layer {path!r} is also used as {shared[0]!r}; it can't be removed in one place", "shared_module"
        )
    tied = [
        (name, origin)
        for name, origin in architecture.ties.items()
        if split_path(origin)[0] in inside and split_path(name)[0] not in inside
    ]
    if tied:
        raise Refused(
            f"tensor {tied[0][1]!r} is also used as {tied[0][0]!r}; its layer can't be removed", "tied_tensor"
        )


def _require_no_projection(scene: Scene, path: str) -> None:
    for skip in scene.state.architecture.skips():
        if skip.via == path:
            raise Refused(
                f"{path!r} is the projection of the skip from {skip.source!r} to {skip.target!r}; no bridge stands in "
                "for it: remove it by bridge_strategy='direct', or with remove_skip_connection",
                "connection",
            )


def _direct_edits(scene: Scene, observation: Observation, path: str, stream: Stream) -> tuple[Edit, ...]:
    """Return the edits that remove a layer one of whose arguments can take the place of its result."""
    architecture = scene.state.architecture
    running = [c for c in architecture.connections if c.via == path]
    is_a_place = architecture.acting_on(path) or scene.seeds_on(path)
    if running and not is_a_place:
        return (*(Disconnect(c.id) for c in running), RemoveModule(path))
    reads = reads_of(scene.shadow, scene.examples, path)
    if not reads and not is_a_place and _is_only_run_in_order(scene, observation, path):
        return (RemoveModule(path),)
    bypass = stand_in(scene.require_layer(path), path, reads, stream, None)
    require_unmissed(scene, observation, path, bypass)
    return (replacing(scene, path, fragment_of(bypass), Initial()),)


def _is_only_run_in_order(scene: Scene, observation: Observation, path: str) -> bool:
    """Say whether a layer is one of several in a sequence that runs them itself."""
    parent_path, _ = split_path(path)
    parent = module_at(scene.live.module, parent_path)
    return is_sequential(parent) and len(parent._modules) > 1 and observation.runs_inside(path, parent_path)


def _bridge(
    scene: Scene, observations: Sequence[Observation], path: str, streams: Sequence[Stream], strategy: str
) -> tuple[NewModule, Quality | None]:
    first = observations[0]
    seed = scene.seed(path)
    stream, layer = _adapter(first, path, streams, seed)
    reads = reads_of(scene.shadow, scene.examples, path)
    standing = stand_in(scene.require_layer(path), path, reads, stream, layer)
    require_unmissed(scene, first, path, standing)
    if strategy == "learned":
        pairs = [pair for observation in observations for pair in _pairs(observation, path, stream)]
        if not all(bool(torch.isfinite(tensor).all()) for pair in pairs for tensor in pair):
            raise UsageError(
                f"what {path!r} takes or returns on the example inputs and the batches of calibration is not finite"
            )
        quality = fitted(layer, [x for x, _ in pairs], [y for _, y in pairs])
        return new_module(standing, fragment_of(standing), seed, {}, given=True), quality
    inside = "" if standing is layer else "bridge."
    fills = {f"{inside}weight": Fill("identity"), f"{inside}bias": Fill("zeros")}
    return new_module(standing, fragment_of(standing), seed, fills, given=False), None


def _adapter(
    observation: Observation, path: str, streams: Sequence[Stream], seed: int
) -> tuple[Stream, nn.Module]:
    """Return an adapter from the first argument that can be mapped to the layer's result.

    Raises:
        Refused: if there is none.
    """
    call = observation.require_executed(path)[0]
    spatial = spatial_dims(observation, call)
    refusals = []
    for stream in streams:
        taken, made = _pairs(observation, path, stream)[0]
        try:
            return stream, seeded(
                seed,
                partial(adapter, taken.shape, made.shape, spatial, call.dtype, f"bridge over {path!r}"),
            )
        except Refused as refusal:
            refusals.append(refusal)
    raise refusals[0]


def _pairs(observation: Observation, path: str, stream: Stream) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return what a bridge takes and what the layer made of it, call by call."""
    calls = observation.taken.get(path, ())
    found = [(input_of(call, stream.where), call.output) for call in calls]
    return [(x, y) for x, y in found if x is not None and y is not None]
