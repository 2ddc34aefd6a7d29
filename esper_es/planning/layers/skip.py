"""Planning ``add_skip_connection`` and ``remove_skip_connection``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from attrs import evolve
from torch import nn

from esper_es.domain import rules
from esper_es.domain.architecture import Connection, join_path
from esper_es.domain.edits import AddModule, Connect, Disconnect, Edit, Fill, RemoveModule
from esper_es.domain.errors import Refused, UsageError
from esper_es.domain.surgery_commands import add_skip_connection, remove_skip_connection
from esper_es.planning.layers.coincidence import require_alike, unlike
from esper_es.planning.layers.joining import joining_layer, written_in_place
from esper_es.planning.layers.placement import next_order, owner_of, require_free, require_own_forward
from esper_es.planning.layers.skip_order import finding, trace_skips
from esper_es.planning.observation import Call, Observation
from esper_es.planning.scene import Plan, Scene, new_module
from esper_es.projections.live.build import fragment_of
from esper_es.projections.live.fusion import Fusion
from esper_es.projections.live.hosting import COPY
from esper_es.projections.live.initializers import seeded

CONNECTION_TYPES = ("add", "concat")


def plan_add_skip_connection(scene: Scene, *, from_layer: str, to_layer: str, connection_type: str) -> Plan:
    """Let the output of one layer join the output of a later one.

    ``add``: where the shapes are the same, it is added as it is (He et al. 2016); where they differ, or do so on inputs
    of another size, through a projection that starts at zero, so that the model's function stays. ``concat``: both
    outputs side by side pass a projection that starts as an identity on the one and zero on the other, so that function
    and widths stay.

    Raises:
        UsageError: for an unknown connection type.
        Refused: if a layer is unknown or never runs, the two are not in order on one path, or no projection fits.
    """
    if connection_type not in CONNECTION_TYPES:
        raise UsageError(f"connection_type is one of {', '.join(CONNECTION_TYPES)}, got {connection_type!r}")
    rules.check_frequency(scene.state)
    rules.check_skip_count(scene.state)
    for layer in (from_layer, to_layer):
        scene.require_layer(layer)
        require_own_forward(scene.live.module, layer)
    connection_id = f"skip:{from_layer}->{to_layer}"
    if any(c.id == connection_id for c in scene.state.architecture.connections):
        raise Refused(
            f"there is a skip connection from {from_layer!r} to {to_layer!r} already", "connection_taken"
        )
    observation = scene.observe()
    for layer in (from_layer, to_layer):
        observation.require_executed(layer)
    skip = Connection(connection_id, "skip", from_layer, to_layer, None, next_order(scene), connection_type)
    trace = trace_skips(scene.shadow, scene.examples, [skip])
    if (found := finding(trace, from_layer, to_layer)) is not None:
        raise Refused(*found)
    edits, tensors, projection = _projection(scene, observation, skip)
    copied = COPY if written_in_place(scene.shadow, scene.examples, skip) else ""
    connection = evolve(skip, via=projection, join=f"{connection_type}{copied}")
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


def _projection(
    scene: Scene, observation: Observation, skip: Connection
) -> tuple[tuple[Edit, ...], Mapping[str, torch.Tensor], str | None]:
    """Return the edits that add what the taken output passes, and its path; nothing where it passes as it is."""
    source, target = (calls[0] for calls in observation.calls_together(skip.source, skip.target))
    by_chance = None
    if skip.join == "add" and source.output == target.output:
        other = unlike(scene, observation, skip)
        if other is None:
            require_alike(scene, skip, target.output or ())
            return (), {}, None
        by_chance = source.output
        observation, (source, target) = other
    name = f"skip_{source.path}_to_{target.path}".replace(".", "_")
    path = join_path(owner_of(scene.live.module, target.path), name)
    require_free(scene.live.module, path)
    seed = scene.seed(path)
    layer = seeded(seed, partial(_joining, observation, source, target, skip, by_chance))
    inside = "projection." if isinstance(layer, Fusion) else ""
    fills = {f"{inside}weight": Fill("zeros"), f"{inside}bias": Fill("zeros")}
    new = new_module(layer, fragment_of(layer), seed, fills, given=False)
    add = AddModule(path, new.fragment, None, new.initial, like=target.path)
    return (add,), new.tensors, path


def _joining(
    observation: Observation, source: Call, target: Call, skip: Connection, by_chance: tuple[int, ...] | None
) -> nn.Module:
    try:
        return joining_layer(observation, source, target, skip.join == "concat")
    except Refused as refusal:
        if by_chance is None:
            raise
        raise Refused(
            f"{skip.source!r} and {skip.target!r} both return the shape {by_chance} on the example inputs, but only by "
            f"chance: where these have another size, {source.output} and {target.output}; {refusal.reason}",
            refusal.check,
        ) from refusal


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
