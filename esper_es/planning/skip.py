"""Planning ``add_skip_connection`` and ``remove_skip_connection``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch

from esper_es.domain import rules
from esper_es.domain.architecture import Connection, join_path
from esper_es.domain.edits import AddModule, Connect, Disconnect, Edit, Fill, RemoveModule
from esper_es.domain.errors import Refused, UsageError
from esper_es.domain.surgery_commands import add_skip_connection, remove_skip_connection
from esper_es.planning.adapters import adapter, spatial_dims
from esper_es.planning.observation import Call, Observation
from esper_es.planning.placement import next_order, owner_of, require_free
from esper_es.planning.scene import Plan, Scene, new_module
from esper_es.projections.live.build import fragment_of
from esper_es.projections.live.initializers import seeded

CONNECTION_TYPES = ("add",)


def plan_add_skip_connection(scene: Scene, *, from_layer: str, to_layer: str, connection_type: str) -> Plan:
    """Add the output of one layer to the output of a later one.

    Where the shapes differ, the output passes a 1x1 projection that starts at zero, so that the model's
    function stays; where they are the same, it is added as it is (He et al. 2016).

    Raises:
        UsageError: for an unknown connection type.
        Refused: if a layer is unknown or never runs, the order would make a cycle, or no projection fits.
    """
    if connection_type not in CONNECTION_TYPES:
        raise UsageError(f"connection_type is one of {', '.join(CONNECTION_TYPES)}, got {connection_type!r}")
    rules.check_frequency(scene.state)
    rules.check_skip_count(scene.state)
    for layer in (from_layer, to_layer):
        if "forward" in scene.require_layer(layer).__dict__:
            raise Refused(
                f"the forward of {layer!r} was replaced on the object itself, which goes around all that is added; "
                "replace it in a subclass",
                "replaced_forward",
            )
    observation = scene.observe()
    source, target = (_only_call(observation, layer) for layer in (from_layer, to_layer))
    if source.end >= target.end:
        raise Refused(
            f"{from_layer!r} ends after {to_layer!r} in the forward pass; a skip in this direction would make a "
            "cycle. Connect an earlier layer to a later one",
            "cycle",
        )
    connection_id = f"skip:{from_layer}->{to_layer}"
    if any(c.id == connection_id for c in scene.state.architecture.connections):
        raise Refused(
            f"there is a skip connection from {from_layer!r} to {to_layer!r} already", "connection_taken"
        )
    edits, tensors, projection = _projection(scene, observation, source, target)
    connection = Connection(
        connection_id, "skip", from_layer, to_layer, projection, next_order(scene), connection_type
    )
    return Plan(
        edits=(*edits, Connect(connection)),
        tensors=tensors,
        executes=(projection,) if projection else (),
        details={
            "from_layer": from_layer,
            "to_layer": to_layer,
            "connection_type": connection_type,
            "connection_id": connection_id,
            "projection": projection,
        },
        facts=partial(
            add_skip_connection,
            from_layer=from_layer,
            to_layer=to_layer,
            connection_type=connection_type,
            connection_id=connection_id,
            projection=projection,
        ),
    )


def _only_call(observation: Observation, layer: str) -> Call:
    calls = observation.require_executed(layer)
    if len(calls) > 1:
        raise Refused(
            f"layer {layer!r} runs {len(calls)} times in one forward pass; a skip could not tell which",
            "called_often",
        )
    if calls[0].output is None:
        raise Refused(f"layer {layer!r} returns no tensor", "no_tensor")
    return calls[0]


def _projection(
    scene: Scene, observation: Observation, source: Call, target: Call
) -> tuple[tuple[Edit, ...], Mapping[str, torch.Tensor], str | None]:
    taken, wanted = source.output, target.output
    if taken is None or wanted is None or taken == wanted:
        return (), {}, None
    name = f"skip_{source.path}_to_{target.path}".replace(".", "_")
    path = join_path(owner_of(scene.live.module, target.path), name)
    require_free(scene.live.module, path)
    seed = scene.seed(path)
    what = f"skip from {source.path!r} to {target.path!r}"
    spatial = spatial_dims(observation, source)
    layer = seeded(seed, lambda: adapter(taken, wanted, spatial, source.dtype, what))
    fills = {"weight": Fill("zeros"), "bias": Fill("zeros")}
    new = new_module(layer, fragment_of(layer), seed, fills, given=False)
    add = AddModule(path, new.fragment, None, new.initial, like=target.path)
    return (add,), new.tensors, path


def plan_remove_skip_connection(scene: Scene, *, from_layer: str, to_layer: str) -> Plan:
    """Take a skip connection away again, and the projection that it runs through.

    Raises:
        Refused: if there is none, or something was built upon its projection.
    """
    rules.check_frequency(scene.state)
    skip = _skip_between(scene, from_layer, to_layer)
    edits: tuple[Edit, ...] = (Disconnect(skip.id),)
    if skip.via is not None:
        _require_unused(scene, skip.via, skip)
        edits = (*edits, RemoveModule(skip.via))
    return Plan(
        edits=edits,
        details={"from_layer": from_layer, "to_layer": to_layer, "connection_id": skip.id},
        facts=partial(
            remove_skip_connection, from_layer=from_layer, to_layer=to_layer, connection_id=skip.id
        ),
    )


def _skip_between(scene: Scene, from_layer: str, to_layer: str) -> Connection:
    skips = scene.state.architecture.skips()
    for skip in skips:
        if (skip.source, skip.target) == (from_layer, to_layer):
            return skip
    known = ", ".join(f"{c.source!r} to {c.target!r}" for c in skips) or "none"
    raise Refused(
        f"there is no skip connection from {from_layer!r} to {to_layer!r}; there are: {known}",
        "unknown_connection",
    )


def _require_unused(scene: Scene, projection: str, skip: Connection) -> None:
    architecture = scene.state.architecture
    parts = set(architecture.descendants(projection))
    users = [c for c in architecture.connections if c.id != skip.id and parts & {c.source, c.target}]
    if users:
        raise Refused(
            f"{users[0].id!r} was built upon the projection {projection!r} of this skip connection; remove that "
            "first",
            "connection",
        )
    for seed in scene.seeds_on(projection):
        raise Refused(
            f"seed {seed.id!r} ({seed.stage}) stands on {seed.layer!r}, which would go with the skip connection",
            "seed",
        )
