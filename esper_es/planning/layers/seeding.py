"""Planning the structural steps of a seed's life: germination, fossilisation, culling."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import evolve

from esper_es.domain import seed_commands
from esper_es.domain.architecture import Architecture, Connection, join_path, relative_path, split_path
from esper_es.domain.canonical import Json
from esper_es.domain.edits import (
    Connect,
    Disconnect,
    Edit,
    Fill,
    Initial,
    RemoveModule,
    ReplaceModule,
    ScaleTensor,
)
from esper_es.domain.errors import Refused
from esper_es.domain.lifecycle import INCUBATING
from esper_es.domain.state import Seed
from esper_es.planning.layers.adapters import of_dtype, spatial_dims
from esper_es.planning.layers.placement import place_after, placing_edits
from esper_es.planning.observation import Call, Observation
from esper_es.planning.scene import Plan, Scene, new_module
from esper_es.projections.live.build import fragment_of, wrapped
from esper_es.projections.live.initializers import seeded
from esper_es.projections.live.kernels import KernelSite, build_kernel, kernel_arguments, output_tensors
from esper_es.projections.live.modules import SeedSlot
from esper_es.projections.live.names import module_at


def plan_germinate(
    scene: Scene,
    *,
    seed: str,
    kernel: str,
    arguments: Mapping[str, Json],
    evidence: Mapping[str, float],
    override: str | None,
) -> Plan:
    """Load a kernel into a dormant slot: behind its layer, incubating.

    Raises:
        UsageError: for an unknown kernel or argument.
        Refused: if the lifecycle forbids it, the layer never runs, or the kernel can't grow there.
    """
    full = kernel_arguments(kernel, arguments)
    planted = seed_commands.seed_named(scene.state, seed)
    seed_commands.gate_of(scene.state, planted, "germinate", evidence, override)
    scene.require_layer(planted.layer)
    observation = scene.observe()
    call = observation.require_executed(planted.layer)[0]
    site = _site(observation, call)
    place = place_after(scene, observation, planted.layer, seed)
    number = scene.seed(f"{seed}/{kernel}")
    module = of_dtype(seeded(number, lambda: build_kernel(kernel, site, full)), call.dtype)
    slot = SeedSlot(INCUBATING)
    slot.add_module("kernel", module)
    fills = {f"kernel.{name}": Fill("zeros") for name in output_tensors(module)}
    new = new_module(slot, fragment_of(slot), number, fills, given=False)
    return Plan(
        edits=placing_edits(scene, place, new, planted.layer),
        tensors=new.tensors,
        executes=(join_path(place.path, "kernel"),),
        details={"seed": seed, "kernel": kernel, "arguments": full, "path": place.path},
        facts=lambda state, change: seed_commands.germinate(
            state, seed, change, kernel=kernel, arguments=full, evidence=evidence, override=override
        ),
    )


def _site(observation: Observation, call: Call) -> KernelSite:
    if call.output is None or len(call.output) < 2:
        raise Refused(
            f"layer {call.path!r} returns no tensor with channels; no kernel can grow there", "kernel"
        )
    spatial = spatial_dims(observation, call)
    return KernelSite(channels=call.output[1 if spatial else -1], spatial=spatial)


def plan_cull(scene: Scene, *, seed: str, reason: str) -> Plan:
    """Remove a seed's module.

    Raises:
        Refused: if the lifecycle forbids it.
    """
    known = seed_commands.seed_named(scene.state, seed)
    seed_commands.gate_of(scene.state, known, "cull", {}, None)
    return Plan(
        edits=_removal(scene, known),
        details={"seed": seed, "reason": reason},
        facts=lambda state, change: seed_commands.cull(state, seed, change, reason=reason),
    )


def plan_fossilize(scene: Scene, *, seed: str, evidence: Mapping[str, float], override: str | None) -> Plan:
    """Turn a seed into an ordinary residual layer; alpha is folded into its last affine layer.

    A seed that adds nothing (``noop``) leaves nothing behind.

    Raises:
        Refused: if the lifecycle or the gate forbids it.
    """
    known = seed_commands.seed_named(scene.state, seed)
    seed_commands.gate_of(scene.state, known, "fossilize", evidence, override)
    path = _path(known)
    kernel = module_at(scene.live.module, join_path(path, "kernel"))
    outputs = output_tensors(kernel)
    edits = _folding(scene, known, outputs) if outputs else _removal(scene, known)
    layer = path if outputs else None
    return Plan(
        edits=edits,
        executes=(path,) if outputs else (),
        details={"seed": seed, "layer": layer, "alpha": known.alpha},
        facts=lambda state, change: seed_commands.fossilize(
            state, seed, change, layer=layer, evidence=evidence, override=override
        ),
    )


def _folding(scene: Scene, seed: Seed, outputs: tuple[str, ...]) -> tuple[Edit, ...]:
    path = _path(seed)
    scaling = tuple(ScaleTensor(join_path(path, "kernel", name), seed.alpha) for name in outputs)
    body = scene.state.architecture.subtree(join_path(path, "kernel"))
    replace = ReplaceModule(
        path, wrapped("residual", {}, "body", body), Initial(), keep="kernel", keep_as="body"
    )
    return (*(scaling if seed.alpha != 1.0 else ()), replace)


def _removal(scene: Scene, seed: Seed) -> tuple[Edit, ...]:
    """Return the edits that take a seed's slot out; skips that end in it end in what runs before it instead.

    Those that end inside the slot go with it.
    """
    path = _path(seed)
    connections = scene.state.architecture.connections
    ending = [c for c in connections if c.via != path and (_lies(c.source, path) or _lies(c.target, path))]
    moved = [skip for c in ending if (skip := _moved(scene, c, path)) is not None]
    kept = {skip.id for skip in moved}
    lost = [c.via for c in ending if c.id not in kept and c.via is not None and not _lies(c.via, path)]
    return (
        *(Disconnect(c.id) for c in connections if c.via == path or c in ending),
        RemoveModule(path),
        *(RemoveModule(projection) for projection in lost),
        *(Connect(skip) for skip in moved),
    )


def _lies(path: str, root: str) -> bool:
    return relative_path(path, root) is not None


def _moved(scene: Scene, skip: Connection, slot: str) -> Connection | None:
    """Return a skip connection that ends in a slot as one that ends in what runs before the slot, if it can."""
    before = _before(scene.state.architecture, slot)
    ends = [before if end == slot else end for end in (skip.source, skip.target)]
    inside = any(_lies(end, slot) for end in ends) or (skip.via is not None and _lies(skip.via, slot))
    return None if inside or ends[0] == ends[1] else evolve(skip, source=ends[0], target=ends[1])


def _before(architecture: Architecture, slot: str) -> str:
    """Return the path of the module whose output a slot takes."""
    for connection in architecture.connections:
        if connection.via == slot:
            return connection.source
    parent, name = split_path(slot)
    siblings = architecture.nodes[parent].children
    return join_path(parent, siblings[siblings.index(name) - 1])


def _path(seed: Seed) -> str:
    if seed.path is None:
        raise Refused(f"seed {seed.id!r} in stage {seed.stage} holds no module", "lifecycle")
    return seed.path
