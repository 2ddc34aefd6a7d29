"""What an edit does to the architecture value. The live projection does the same to the module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from attrs import evolve

from esper_es.domain.architecture import (
    Architecture,
    ModuleNode,
    TensorSpec,
    join_path,
    relative_path,
    split_path,
)
from esper_es.domain.edits import (
    AddModule,
    Connect,
    Disconnect,
    Edit,
    RemoveModule,
    ReplaceModule,
    ResizeTensor,
    ScaleSlice,
    ScaleTensor,
    SetAttribute,
    SetScalar,
)

T = TypeVar("T")


def evolved(architecture: Architecture, edits: Iterable[Edit]) -> Architecture:
    """Return the architecture after ``edits``.

    Raises:
        ValueError: when an edit names something that is not there, or is there already.
    """
    for edit in edits:
        architecture = _STEPS[type(edit)](architecture, edit)
    return architecture


def _add(architecture: Architecture, edit: AddModule) -> Architecture:
    parent_path, name = split_path(edit.path)
    parent = _node(architecture, parent_path)
    if edit.path in architecture or name in parent.children:
        raise ValueError(f"there is a module at {edit.path!r} already")
    if edit.after is not None and edit.after not in parent.children:
        raise ValueError(f"there is no {edit.after!r} in {parent_path!r} to come after")
    position = len(parent.children) if edit.after is None else parent.children.index(edit.after) + 1
    children = (*parent.children[:position], name, *parent.children[position:])
    grown = architecture.with_node(parent_path, evolve(parent, children=children))
    return _with_fragment(grown, edit.path, edit.fragment)


def _remove(architecture: Architecture, edit: RemoveModule) -> Architecture:
    if not edit.path:
        raise ValueError("the root module cannot be removed")
    parent_path, name = split_path(edit.path)
    parent = _node(architecture, parent_path)
    _node(architecture, edit.path)
    children = tuple(child for child in parent.children if child != name)
    left = _without(architecture, edit.path).with_node(parent_path, evolve(parent, children=children))
    _require_shared(left, edit.path)
    return left


def _replace(architecture: Architecture, edit: ReplaceModule) -> Architecture:
    _node(architecture, edit.path)
    replaced = _with_fragment(_without(architecture, edit.path), edit.path, edit.fragment)
    _require_shared(replaced, edit.path)
    return replaced


def _resize(architecture: Architecture, edit: ResizeTensor) -> Architecture:
    path, name = split_path(architecture.ties.get(edit.tensor, edit.tensor))
    node = _node(architecture, path)
    if name not in node.tensors:
        raise ValueError(f"there is no tensor {edit.tensor!r}")
    spec = node.tensors[name]
    if not 0 <= edit.dim < len(spec.shape):
        raise ValueError(f"tensor {edit.tensor!r} has {len(spec.shape)} dimensions, there is no {edit.dim}")
    edit.gather.require_fits(spec.shape[edit.dim])
    shape = (*spec.shape[: edit.dim], len(edit.gather), *spec.shape[edit.dim + 1 :])
    resized = TensorSpec(shape, spec.dtype, spec.role)
    return architecture.with_node(path, evolve(node, tensors={**node.tensors, name: resized}))


def _set_attribute(architecture: Architecture, edit: SetAttribute) -> Architecture:
    node = _node(architecture, edit.path)
    return architecture.with_node(edit.path, evolve(node, config={**node.config, edit.name: edit.value}))


def _same_shape(architecture: Architecture, edit: SetScalar | ScaleTensor) -> Architecture:
    _spec(architecture, edit.tensor)
    return architecture


def _scale_slice(architecture: Architecture, edit: ScaleSlice) -> Architecture:
    spec = _spec(architecture, edit.tensor)
    if not 0 <= edit.dim < len(spec.shape):
        raise ValueError(f"tensor {edit.tensor!r} has {len(spec.shape)} dimensions, there is no {edit.dim}")
    edit.indices.require_fits(spec.shape[edit.dim])
    if edit.indices.added:
        raise ValueError(f"entries of {edit.tensor!r} that do not exist can't be scaled")
    return architecture


def _spec(architecture: Architecture, tensor: str) -> TensorSpec:
    try:
        return architecture.tensor(tensor)
    except KeyError:
        raise ValueError(f"there is no tensor {tensor!r}") from None


def _connect(architecture: Architecture, edit: Connect) -> Architecture:
    new = edit.connection
    if any(c.id == new.id for c in architecture.connections):
        raise ValueError(f"there is a connection {new.id!r} already")
    for path in filter(None, (new.source, new.target, new.via)):
        _node(architecture, path)
    return evolve(architecture, connections=(*architecture.connections, new))


def _disconnect(architecture: Architecture, edit: Disconnect) -> Architecture:
    left = tuple(c for c in architecture.connections if c.id != edit.id)
    if len(left) == len(architecture.connections):
        raise ValueError(f"there is no connection {edit.id!r}")
    return evolve(architecture, connections=left)


def _node(architecture: Architecture, path: str) -> ModuleNode:
    try:
        return architecture.nodes[path]
    except KeyError:
        raise ValueError(f"there is no module at {path!r}") from None


def _with_fragment(architecture: Architecture, path: str, fragment: Architecture) -> Architecture:
    """Put a fragment at ``path``, with what its own modules share among themselves."""
    nodes = {join_path(path, name): node for name, node in fragment.nodes.items()}
    return evolve(
        architecture,
        nodes={**architecture.nodes, **nodes},
        aliases={**architecture.aliases, **_placed(fragment.aliases, path)},
        ties={**architecture.ties, **_placed(fragment.ties, path)},
    )


def _placed(shared: Mapping[str, str], path: str) -> dict[str, str]:
    return {join_path(path, name): join_path(path, origin) for name, origin in shared.items()}


def _without(architecture: Architecture, path: str) -> Architecture:
    """Take away the module at ``path``, all below it, and the second names of tensors and modules there."""
    return evolve(
        architecture,
        nodes=_outside(architecture.nodes, path),
        aliases=_outside(architecture.aliases, path),
        ties=_outside(architecture.ties, path),
    )


def _outside(named: Mapping[str, T], path: str) -> dict[str, T]:
    return {name: value for name, value in named.items() if relative_path(name, path) is None}


def _require_shared(architecture: Architecture, path: str) -> None:
    """Refuse to lose what lies at ``path`` and goes by a second name elsewhere."""
    tensors = {name for name, _ in architecture.tensors()}
    for shared, known in ((architecture.aliases, architecture.nodes), (architecture.ties, tensors)):
        for name, origin in shared.items():
            if origin not in known and relative_path(origin, path) is not None:
                raise ValueError(f"{origin!r} is shared as {name!r}, which would lose it")


_STEPS: dict[type, Callable[[Architecture, Any], Architecture]] = {
    AddModule: _add,
    RemoveModule: _remove,
    ReplaceModule: _replace,
    ResizeTensor: _resize,
    ScaleTensor: _same_shape,
    ScaleSlice: _scale_slice,
    SetAttribute: _set_attribute,
    SetScalar: _same_shape,
    Connect: _connect,
    Disconnect: _disconnect,
}
