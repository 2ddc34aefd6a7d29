"""The architecture value: what a model is made of, without torch, and nothing of what its tensors hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from math import prod

from attrs import evolve, field, frozen

from esper_es.domain.canonical import Json, fingerprint_of

DTYPE_BYTES: Mapping[str, int] = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
    "complex64": 8,
    "complex128": 16,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
}


TRANSIENT = "transient"
"""Role of a buffer that is left out of ``state_dict``."""


@frozen
class TensorSpec:
    """Shape and dtype of one tensor of a module.

    Attributes:
        shape: sizes of the dimensions.
        dtype: torch's name without the ``torch.`` prefix, e.g. ``"float32"``.
        role: ``"parameter"``, ``"buffer"``, or ``"transient"`` (a buffer left out of ``state_dict``).
    """

    shape: tuple[int, ...]
    dtype: str
    role: str

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * DTYPE_BYTES.get(self.dtype, 4)


@frozen
class ModuleNode:
    """One module.

    Attributes:
        kind: name of a registered layer kind, or ``"opaque:<ClassName>"`` for user code.
        config: what its kind needs to build it again; JSON values.
        tensors: its own tensors by local name.
        children: local names of its children, in order.
    """

    kind: str
    config: Mapping[str, Json] = field(factory=dict)
    tensors: Mapping[str, TensorSpec] = field(factory=dict)
    children: tuple[str, ...] = ()


@frozen
class Connection:
    """An added path of the data flow that is not in the modules' own ``forward``.

    Attributes:
        id: unique within the architecture.
        kind: ``"after"`` (``via`` runs on the output of ``source``) or ``"skip"`` (the output of ``source``
            joins the output of ``target``).
        source: module path whose output is taken.
        target: module path whose output is changed; equals ``source`` for ``"after"``.
        via: path of the module that the taken output passes through, if any.
        order: position among the connections that act on the same module; grows with time.
        join: how a skip joins: ``"add"`` or ``"concat"``, with ``"-copy"`` behind where the source's output is kept
            as a copy; empty for ``"after"``.
    """

    id: str
    kind: str
    source: str
    target: str
    via: str | None
    order: int
    join: str = ""


@frozen
class Architecture:
    """An immutable description of a model, or of a part of one (then paths are relative to its root ``""``).

    Attributes:
        nodes: modules by dotted path; the root is ``""``.
        connections: added paths, by ``order``.
        aliases: paths of shared modules, mapped to the path under which the module is described.
        ties: names of tied tensors, mapped to the name under which the tensor is described.
    """

    nodes: Mapping[str, ModuleNode]
    connections: tuple[Connection, ...] = ()
    aliases: Mapping[str, str] = field(factory=dict)
    ties: Mapping[str, str] = field(factory=dict)

    def __contains__(self, path: object) -> bool:
        return path in self.nodes

    @cached_property
    def fingerprint(self) -> str:
        """``sha256:...`` of kinds, configs, tensor shapes and dtypes, order, ties and connections."""
        return fingerprint_of(self.as_dict())

    def as_dict(self) -> dict[str, Json]:
        """Return a JSON value with everything the fingerprint covers."""
        return {
            "nodes": {path: _node_dict(node) for path, node in self.nodes.items()},
            "connections": [
                [c.id, c.kind, c.source, c.target, c.via, c.order, c.join] for c in self.connections
            ],
            "aliases": dict(self.aliases),
            "ties": dict(self.ties),
        }

    def tensors(self) -> Iterator[tuple[str, TensorSpec]]:
        """Yield ``(state-dict name, spec)`` of every tensor once, tied ones under one name."""
        yield from self._specs.items()

    @cached_property
    def _specs(self) -> Mapping[str, TensorSpec]:
        return {
            join_path(path, name): spec
            for path, node in self.nodes.items()
            for name, spec in node.tensors.items()
        }

    def tensor(self, name: str) -> TensorSpec:
        """Return the spec of the tensor with this state-dict name.

        Raises:
            KeyError: if there is none.
        """
        path, local = split_path(self.ties.get(name, name))
        return self.nodes[path].tensors[local]

    @property
    def parameter_count(self) -> int:
        """Number of scalar parameters, tied ones counted once."""
        return sum(spec.numel for _, spec in self.tensors() if spec.role == "parameter")

    @property
    def nbytes(self) -> int:
        """Bytes of all parameters and buffers, tied ones counted once."""
        return sum(spec.nbytes for _, spec in self.tensors())

    @property
    def slots(self) -> tuple[str, ...]:
        """Paths of the seed slots that hold a module now."""
        return tuple(path for path, node in self.nodes.items() if node.kind == "seed_slot")

    def skips(self) -> tuple[Connection, ...]:
        return tuple(c for c in self.connections if c.kind == "skip")

    def acting_on(self, path: str) -> tuple[Connection, ...]:
        """Return the connections that take or change the output of the module at ``path``."""
        return tuple(c for c in self.connections if path in (c.source, c.target))

    def subtree(self, path: str) -> Architecture:
        """Return the part below ``path`` with paths relative to it.

        Connections stay behind, and so does what is shared with the outside.
        """
        nodes = {
            relative: node
            for name, node in self.nodes.items()
            if (relative := relative_path(name, path)) is not None
        }
        return Architecture(nodes, (), _relative(self.aliases, path), _relative(self.ties, path))

    def descendants(self, path: str) -> tuple[str, ...]:
        """Return ``path`` and every module path below it."""
        return tuple(name for name in self.nodes if relative_path(name, path) is not None)

    def fits(self, other: Architecture) -> bool:
        """Say whether two models are of one architecture: but for what a forward pass keeps in buffers outside the
        state dict, which it makes, or sizes by what comes in, as it likes."""
        if self == other or self.fingerprint == other.fingerprint:
            return True
        return self.with_transients(other.transients).fingerprint == other.fingerprint

    @property
    def transients(self) -> dict[str, TensorSpec]:
        """The buffers outside the state dict, by name."""
        return {name: spec for name, spec in self.tensors() if spec.role == TRANSIENT}

    def with_transients(self, specs: Mapping[str, TensorSpec]) -> Architecture:
        """Return the architecture with these buffers outside the state dict, and no others."""
        tensors = {
            path: {name: spec for name, spec in node.tensors.items() if spec.role != TRANSIENT}
            for path, node in self.nodes.items()
        }
        for name, spec in specs.items():
            path, local = split_path(name)
            if path in tensors:
                tensors[path][local] = spec
        return evolve(
            self, nodes={path: evolve(node, tensors=tensors[path]) for path, node in self.nodes.items()}
        )

    def with_node(self, path: str, node: ModuleNode) -> Architecture:
        return evolve(self, nodes={**self.nodes, path: node})


def _node_dict(node: ModuleNode) -> list[Json]:
    tensors = {name: [list(t.shape), t.dtype, t.role] for name, t in node.tensors.items()}
    return [node.kind, dict(node.config), tensors, list(node.children)]


def _relative(shared: Mapping[str, str], root: str) -> dict[str, str]:
    pairs = ((relative_path(name, root), relative_path(origin, root)) for name, origin in shared.items())
    return {name: origin for name, origin in pairs if name is not None and origin is not None}


def join_path(*parts: str) -> str:
    """Join dotted path parts, leaving out empty ones."""
    return ".".join(filter(None, parts))


def split_path(path: str) -> tuple[str, str]:
    """Split ``"a.b.c"`` into ``("a.b", "c")``."""
    parent, _, name = path.rpartition(".")
    return parent, name


def relative_path(path: str, root: str) -> str | None:
    """Return ``path`` relative to ``root``, or None when it does not lie there."""
    if not root:
        return path
    if path == root:
        return ""
    return path[len(root) + 1 :] if path.startswith(f"{root}.") else None
