"""The architecture value as rows, and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import Connection

from esper_es.domain.architecture import (
    Architecture,
    ModuleNode,
    TensorSpec,
    join_path,
    relative_path,
)
from esper_es.domain.architecture import Connection as DataFlow
from esper_es.projections.audit.stretches import (
    ARCHITECTURE,
    CONNECTIONS,
    LAYERS,
    PLACEMENTS,
    SHARED_NAMES,
    TENSORS,
    Content,
    Entry,
    StretchTable,
)

Entries = Mapping[StretchTable, Mapping[str, Entry]]


def architecture_at(connection: Connection, model_id: str, version: int) -> Architecture:
    """Return the architecture that a model had at a version, from the audit tables alone.

    Args:
        connection: to the database of the log.
        model_id: UUID of the model as text.
        version: any version from 1 to the newest.
    """
    return architecture_of({table: table.at(connection, model_id, version) for table in ARCHITECTURE})


def contents_of(architecture: Architecture) -> dict[StretchTable, dict[str, Content]]:
    """Return what the tables have to say of an architecture."""
    return {
        LAYERS: {path: _layer(node) for path, node in architecture.nodes.items()},
        PLACEMENTS: {
            join_path(path, child): {"parent": path, "position": position}
            for path, node in architecture.nodes.items()
            for position, child in enumerate(node.children)
        },
        TENSORS: {
            join_path(path, local): _tensor(path, spec)
            for path, node in architecture.nodes.items()
            for local, spec in node.tensors.items()
        },
        CONNECTIONS: {flow.id: _connection(flow) for flow in architecture.connections},
        SHARED_NAMES: {
            name: {"what": what, "origin": origin}
            for what, names in (("module", architecture.aliases), ("tensor", architecture.ties))
            for name, origin in names.items()
        },
    }


def touching(before: Entries, paths: Collection[str]) -> dict[StretchTable, dict[str, Entry]]:
    """Return the rows that say something of the modules at ``paths``, and all that are not of one module."""
    return {
        LAYERS: {path: entry for path, entry in before[LAYERS].items() if path in paths},
        PLACEMENTS: {key: e for key, e in before[PLACEMENTS].items() if e.content["parent"] in paths},
        TENSORS: {key: e for key, e in before[TENSORS].items() if e.content["layer"] in paths},
        CONNECTIONS: dict(before[CONNECTIONS]),
        SHARED_NAMES: dict(before[SHARED_NAMES]),
    }


def _layer(node: ModuleNode) -> Content:
    specs = node.tensors.values()
    return {
        "kind": node.kind,
        "config": dict(node.config),
        "parameters": sum(spec.numel for spec in specs if spec.role == "parameter"),
        "bytes": sum(spec.nbytes for spec in specs),
    }


def _tensor(layer: str, spec: TensorSpec) -> Content:
    return {
        "layer": layer,
        "shape": list(spec.shape),
        "dtype": spec.dtype,
        "role": spec.role,
        "elements": spec.numel,
        "bytes": spec.nbytes,
    }


def _connection(flow: DataFlow) -> Content:
    return {
        "kind": flow.kind,
        "source": flow.source,
        "target": flow.target,
        "via": flow.via,
        "position": flow.order,
        "joined_by": flow.join,
    }


def architecture_of(entries: Entries) -> Architecture:
    """Return the architecture that the rows describe; its fingerprint is that of the one they were made of."""
    tensors: dict[str, dict[str, TensorSpec]] = {}
    for name, entry in entries[TENSORS].items():
        layer = entry.content["layer"]
        spec = TensorSpec(tuple(entry.content["shape"]), entry.content["dtype"], entry.content["role"])
        tensors.setdefault(layer, {})[_local(name, layer)] = spec
    children: dict[str, dict[int, str]] = {}
    for path, entry in entries[PLACEMENTS].items():
        parent = entry.content["parent"]
        children.setdefault(parent, {})[entry.content["position"]] = _local(path, parent)
    return Architecture(
        nodes={
            path: ModuleNode(
                kind=entry.content["kind"],
                config=entry.content["config"],
                tensors=tensors.get(path, {}),
                children=tuple(name for _, name in sorted(children.get(path, {}).items())),
            )
            for path, entry in entries[LAYERS].items()
        },
        connections=_connections(entries[CONNECTIONS]),
        aliases=_origins(entries[SHARED_NAMES], "module"),
        ties=_origins(entries[SHARED_NAMES], "tensor"),
    )


def _local(name: str, owner: str) -> str:
    local = relative_path(name, owner)
    if local is None:
        raise ValueError(f"{name!r} does not lie in {owner!r}")
    return local


def _connections(entries: Mapping[str, Entry]) -> tuple[DataFlow, ...]:
    flows = (
        DataFlow(
            id=key,
            kind=entry.content["kind"],
            source=entry.content["source"],
            target=entry.content["target"],
            via=entry.content["via"],
            order=entry.content["position"],
            join=entry.content["joined_by"],
        )
        for key, entry in entries.items()
    )
    return tuple(sorted(flows, key=lambda flow: flow.order))


def _origins(entries: Mapping[str, Entry], what: str) -> dict[str, str]:
    return {name: entry.content["origin"] for name, entry in entries.items() if entry.content["what"] == what}
