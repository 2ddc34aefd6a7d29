"""Planning ``remove_layer``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch

from esper_es.domain import rules
from esper_es.domain.architecture import split_path
from esper_es.domain.edits import Disconnect, Edit, Fill, Initial, RemoveModule, ReplaceModule
from esper_es.domain.errors import Refused, UsageError
from esper_es.domain.surgery_commands import remove_layer
from esper_es.example_inputs import ExampleInputs
from esper_es.planning.adapters import adapter, fitted, spatial_dims
from esper_es.planning.observation import Call, Observation, observe
from esper_es.planning.placement import is_sequential
from esper_es.planning.scene import NewModule, Plan, Scene, new_module
from esper_es.projections.live.build import fragment_of
from esper_es.projections.live.initializers import seeded
from esper_es.projections.live.modules import Bypass
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
    _require_unshared(scene, layer_name)
    first = scene.observe(take=[layer_name])
    observations = [first, *(observe(scene.shadow, batch, take=[layer_name]) for batch in calibration)]
    call = first.require_executed(layer_name)[0]
    if not call.inputs or call.output is None:
        raise Refused(
            f"layer {layer_name!r} takes or returns no tensor; nothing can be let through", "no_tensor"
        )
    bridged = bridge_strategy == "learned" or call.inputs[0] != call.output
    if not bridged:
        return _plan(scene, layer_name, bridge_strategy, _direct_edits(scene, first, call), {}, None, False)
    bridge, r2 = _bridge(scene, first, observations, call, bridge_strategy)
    edits = (ReplaceModule(layer_name, bridge.fragment, bridge.initial),)
    return _plan(scene, layer_name, bridge_strategy, edits, bridge.tensors, r2, True)


def _plan(
    scene: Scene,
    layer_name: str,
    bridge_strategy: str,
    edits: tuple[Edit, ...],
    tensors: Mapping[str, torch.Tensor],
    r2: float | None,
    adapter_added: bool,
) -> Plan:
    details = {"layer_name": layer_name, "bridge_strategy": bridge_strategy, "adapter_added": adapter_added}
    return Plan(
        edits=edits,
        tensors=tensors,
        executes=(layer_name,) if adapter_added else (),
        details={**details, "bridge_r2": r2} if r2 is not None else details,
        facts=partial(
            remove_layer,
            layer_name=layer_name,
            bridge_strategy=bridge_strategy,
            adapter_added=adapter_added,
            bridge_r2=r2,
        ),
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
    used = [c for c in architecture.connections if {c.source, c.target} & (inside - {path})]
    if used:
        raise Refused(f"connection {used[0].id!r} ends inside {path!r}; remove that first", "connection")


def _direct_edits(scene: Scene, observation: Observation, call: Call) -> tuple[Edit, ...]:
    """Return the edits that remove a layer whose input and output have the same shape."""
    path = call.path
    architecture = scene.state.architecture
    running = [c for c in architecture.connections if c.via == path]
    if running:
        return (*(Disconnect(c.id) for c in running), RemoveModule(path))
    parent_path, _ = split_path(path)
    parent = module_at(scene.live.module, parent_path)
    called = not parent_path or observation.executed(parent_path)
    if is_sequential(parent) and called and len(parent._modules) > 1 and not architecture.acting_on(path):
        return (RemoveModule(path),)
    structure = "tensor" if call.structure == "tensor" else "tuple"
    bypass = Bypass(structure, call.length if structure == "tuple" else 1)
    return (ReplaceModule(path, fragment_of(bypass), Initial()),)


def _bridge(
    scene: Scene, first: Observation, observations: Sequence[Observation], call: Call, strategy: str
) -> tuple[NewModule, float | None]:
    if call.structure != "tensor" or call.output is None:
        raise Refused(
            f"layer {call.path!r} returns a {call.structure}; only single tensors can be bridged", "bridge"
        )
    source, target, seed = call.inputs[0], call.output, scene.seed(call.path)
    spatial = spatial_dims(first, call)
    what = f"bridge over {call.path!r}"
    layer = seeded(seed, lambda: adapter(source, target, spatial, call.dtype, what))
    if strategy == "direct":
        fills = {"weight": Fill("identity"), "bias": Fill("zeros")}
        return new_module(layer, fragment_of(layer), seed, fills, given=False), None
    pairs = [pair for observation in observations for pair in observation.taken[call.path]]
    r2 = fitted(layer, [x for x, _ in pairs], [y for _, y in pairs])
    return new_module(layer, fragment_of(layer), seed, {}, given=True), r2
