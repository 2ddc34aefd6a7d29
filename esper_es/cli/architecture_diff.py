"""The difference between two architectures, module by module."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from esper_es.cli.edit_words import inline
from esper_es.cli.summaries import place
from esper_es.domain.architecture import Architecture, Connection, ModuleNode, TensorSpec
from esper_es.domain.canonical import Json


@frozen
class ModuleChange:
    """A module that is there before and after, and is not the same.

    Attributes:
        path: of the module.
        changes: each in words, e.g. ``"weight 8x4 -> 12x4"``.
    """

    path: str
    changes: tuple[str, ...]


@frozen
class ArchitectureDiff:
    """What differs between two architectures. Empty mappings and tuples where nothing does.

    Attributes:
        added: modules that only the second has, by path.
        removed: modules that only the first has, by path.
        changed: modules of both that differ.
        connected: connections that only the second has.
        disconnected: connections that only the first has.
        shared: second names of modules and tensors that came, went or changed, in words.
        parameters: numbers of parameters.
        nbytes: bytes of parameters and buffers.
    """

    added: Mapping[str, ModuleNode]
    removed: Mapping[str, ModuleNode]
    changed: tuple[ModuleChange, ...]
    connected: tuple[Connection, ...]
    disconnected: tuple[Connection, ...]
    shared: tuple[str, ...]
    parameters: tuple[int, int]
    nbytes: tuple[int, int]

    def __bool__(self) -> bool:
        return bool(
            self.added or self.removed or self.changed or self.connected or self.disconnected or self.shared
        )

    def as_dict(self) -> dict[str, Json]:
        """Return the difference as JSON."""
        return {
            "added": {path: node_dict(node) for path, node in self.added.items()},
            "removed": {path: node_dict(node) for path, node in self.removed.items()},
            "changed": {change.path: list(change.changes) for change in self.changed},
            "connected": [connection_in_words(c) for c in self.connected],
            "disconnected": [connection_in_words(c) for c in self.disconnected],
            "shared": list(self.shared),
            "parameters": list(self.parameters),
            "bytes": list(self.nbytes),
        }


def difference(before: Architecture, after: Architecture) -> ArchitectureDiff:
    """Return what differs between two architectures."""
    return ArchitectureDiff(
        added={path: node for path, node in after.nodes.items() if path not in before.nodes},
        removed={path: node for path, node in before.nodes.items() if path not in after.nodes},
        changed=tuple(
            ModuleChange(path, changes)
            for path, node in after.nodes.items()
            if path in before.nodes and (changes := _changes(before.nodes[path], node))
        ),
        connected=tuple(c for c in after.connections if c not in before.connections),
        disconnected=tuple(c for c in before.connections if c not in after.connections),
        shared=(
            *_renamed("module", before.aliases, after.aliases),
            *_renamed("tensor", before.ties, after.ties),
        ),
        parameters=(before.parameter_count, after.parameter_count),
        nbytes=(before.nbytes, after.nbytes),
    )


def node_dict(node: ModuleNode) -> dict[str, Json]:
    """Return a module as JSON."""
    tensors = {
        name: {"shape": list(spec.shape), "dtype": spec.dtype, "role": spec.role}
        for name, spec in node.tensors.items()
    }
    return {"kind": node.kind, "config": dict(node.config), "tensors": tensors}


def tensor_in_words(spec: TensorSpec) -> str:
    """Return shape and dtype, the latter unless it is float32, e.g. ``8x1x3x3`` or ``scalar int64``."""
    shape = "x".join(map(str, spec.shape)) or "scalar"
    return shape if spec.dtype == "float32" else f"{shape} {spec.dtype}"


def connection_in_words(connection: Connection) -> str:
    """Return a connection, e.g. ``stem joins head.1 through bridge (add)``."""
    if connection.kind == "after":
        return f"{connection.via} runs on the output of {place(connection.source)}"
    via = "" if connection.via is None else f" through {connection.via}"
    return f"{place(connection.source)} joins {place(connection.target)}{via} ({connection.join})"


def _changes(before: ModuleNode, after: ModuleNode) -> tuple[str, ...]:
    changes = [] if before.kind == after.kind else [f"kind {before.kind} -> {after.kind}"]
    for name in dict.fromkeys((*before.config, *after.config)):
        old, new = before.config.get(name), after.config.get(name)
        if old != new:
            changes.append(f"{name} {inline(old)} -> {inline(new)}")
    for name in dict.fromkeys((*before.tensors, *after.tensors)):
        change = _tensor_change(name, before.tensors.get(name), after.tensors.get(name))
        changes += [change] if change else []
    stayed = [name for name in before.children if name in after.children]
    if stayed != [name for name in after.children if name in before.children]:
        changes.append(f"order of children {', '.join(after.children)}")
    return tuple(changes)


def _tensor_change(name: str, before: TensorSpec | None, after: TensorSpec | None) -> str:
    if before == after:
        return ""
    if before is None or after is None:
        spec = before or after
        assert spec is not None
        return f"{'removed' if after is None else 'added'} {spec.role} {name} {tensor_in_words(spec)}"
    role = "" if before.role == after.role else f", {before.role} -> {after.role}"
    return f"{name} {tensor_in_words(before)} -> {tensor_in_words(after)}{role}"


def _renamed(what: str, before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    lines = []
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if new is None:
            lines.append(f"{what} {name} no longer shares {old}")
        else:
            lines.append(f"{what} {name} shares {new}")
    return lines
