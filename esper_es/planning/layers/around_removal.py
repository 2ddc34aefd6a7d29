"""What stays of a removed layer, and which connections go with it.

Where a sequence would run whatever it holds, the projection of a skip lies inside the layer that the skip ends in: it
stays, inside what then stands there. Skips and hosted layers whose ends all lie inside a removed layer go with it.
"""

from __future__ import annotations

from attrs import evolve

from esper_es.domain.architecture import Architecture, Connection, join_path, relative_path
from esper_es.domain.edits import Disconnect, Edit, Initial, RemoveModule, ReplaceModule
from esper_es.domain.errors import Refused
from esper_es.planning.scene import Scene


def going_with(scene: Scene, path: str) -> tuple[Edit, ...]:
    """Return the edits that take away the connections inside a layer that is about to go.

    Raises:
        Refused: if one of them has an end elsewhere, or something else was built upon its projection.
    """
    architecture = scene.state.architecture
    kept = projection_inside(scene, path)
    ending = [c for c in architecture.connections if any(_lies_in(end, path, kept) for end in _ends(c))]
    for connection in ending:
        if not all(_lies_in(end, path, kept) for end in _ends(connection)):
            raise Refused(
                f"connection {connection.id!r} ends inside {path!r}; remove that first", "connection"
            )
    outside = [c.via for c in ending if c.via is not None and relative_path(c.via, path) is None]
    for projection in outside:
        _require_unused(scene, projection, ending)
    return (*(Disconnect(c.id) for c in ending), *(RemoveModule(projection) for projection in outside))


def projection_inside(scene: Scene, path: str) -> str | None:
    """Return the path of the module inside a layer that connections run which act on the layer itself.

    Raises:
        Refused: if there are several, or one was built upon another.
    """
    kept: dict[str, str] = {}
    reached = {path}
    while more := [
        c
        for c in scene.state.architecture.connections
        if c.via is not None and relative_path(c.via, path) and c.id not in kept and _ends(c) & reached
    ]:
        kept |= {c.id: c.via for c in more if c.via is not None}
        reached |= {part for c in more for part in scene.state.architecture.descendants(c.via or "")}
    apart = [via for via in kept.values() if not any(relative_path(via, other) for other in kept.values())]
    if len(apart) > 1:
        named = ", ".join(map(repr, kept))
        raise Refused(
            f"what the connections {named} run lies inside {path!r}, and what takes its place can keep one module of "
            "it; remove all of these connections but one first",
            "connection",
        )
    return apart[0] if apart else None


def replacing(scene: Scene, path: str, fragment: Architecture, initial: Initial) -> ReplaceModule:
    """Return the edit that puts a module in the place of a layer, with the projection that lies inside of that."""
    kept = projection_inside(scene, path)
    if kept is None:
        return ReplaceModule(path, fragment, initial)
    name = relative_path(kept, path) or ""
    held = _holding(fragment, name, scene.state.architecture.subtree(kept))
    return ReplaceModule(path, held, initial, keep=name, keep_as=name)


def _ends(connection: Connection) -> set[str]:
    return {connection.source, connection.target}


def _lies_in(end: str, path: str, kept: str | None) -> bool:
    """Say whether an end of a connection goes with a layer: inside of it, and not in what stays."""
    return bool(relative_path(end, path)) and (kept is None or relative_path(end, kept) is None)


def _require_unused(scene: Scene, projection: str, going: list[Connection]) -> None:
    users = [
        c
        for c in scene.state.architecture.connections
        if c not in going and any(relative_path(end, projection) is not None for end in _ends(c))
    ]
    used = [f"connection {c.id!r}" for c in users] + [f"seed {s.id!r}" for s in scene.seeds_on(projection)]
    if used:
        raise Refused(
            f"{used[0]} was built upon {projection!r}, which would go with the layer; remove that first",
            "connection",
        )


def _holding(fragment: Architecture, name: str, child: Architecture) -> Architecture:
    """Return a description with another child of its root."""
    root = fragment.nodes[""]
    nodes = {**fragment.nodes, "": evolve(root, children=(*root.children, name))}
    nodes |= {join_path(name, path): node for path, node in child.nodes.items()}
    ties = {join_path(name, one): join_path(name, other) for one, other in child.ties.items()}
    return Architecture(nodes, (), fragment.aliases, {**fragment.ties, **ties})
