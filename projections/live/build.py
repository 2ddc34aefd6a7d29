"""Modules from architecture fragments: built by kind, initialised from a seed, on the CPU."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from esper_es.domain.architecture import Architecture, ModuleNode, join_path
from esper_es.domain.canonical import Json, canonical_bytes
from esper_es.domain.errors import ReplayError, UsageError
from esper_es.projections.live.describe import describe, opaque_classes
from esper_es.projections.live.initializers import seeded
from esper_es.projections.live.kinds import kind_named, plain
from esper_es.projections.live.names import DTYPES, named_tensors, tensor_at

COMPOSED = ("attention",)
"""Kinds whose constructor makes its own children."""


def build(fragment: Architecture, seed: int) -> nn.Module:
    """Return a new module that ``fragment`` describes, initialised by torch's defaults from ``seed``.

    Raises:
        ReplayError: if the fragment holds user classes, or what comes out is not what it describes.
        UsageError: if it names an unknown kind.
    """
    if opaque := opaque_classes(fragment):
        raise ReplayError(
            f"classes {', '.join(opaque)} are described by no registered layer kind; "
            "register a blueprint that builds them"
        )
    module = seeded(seed, lambda: _built(fragment, ""))
    for alias, name in fragment.ties.items():
        _tie(module, alias, name)
    take_dtypes(module, fragment)
    described = describe(module)
    if described.fingerprint != Architecture(fragment.nodes, (), fragment.aliases, fragment.ties).fingerprint:
        raise ReplayError("a module built from its description came out different; was a layer kind changed?")
    return module


def take_dtypes(module: nn.Module, architecture: Architecture) -> None:
    """Cast the tensors of a freshly built module to the recorded dtypes; tensors that it lacks are left out.

    Raises:
        ReplayError: if a dtype is unknown.
    """
    present = {name: tensor for name, tensor, _ in named_tensors(module)}
    for name, spec in architecture.tensors():
        if spec.dtype not in DTYPES:
            raise ReplayError(f"tensor {name!r} has the unknown dtype {spec.dtype!r}")
        if (tensor := present.get(name)) is not None:
            tensor.data = tensor.data.to(DTYPES[spec.dtype])


def _built(fragment: Architecture, path: str) -> nn.Module:
    node = fragment.nodes[path]
    module = kind_named(node.kind).build(node.config)
    if node.kind in COMPOSED:
        return module
    for name in node.children:
        child_path = join_path(path, name)
        child = fragment.aliases.get(child_path)
        if child is not None:
            raise ReplayError(
                f"{child_path!r} shares the module {child!r}; register a blueprint that builds it"
            )
        module.add_module(name, _built(fragment, child_path))
    return module


def _tie(module: nn.Module, alias: str, name: str) -> None:
    owner, _, local = alias.rpartition(".")
    target = module.get_submodule(owner)
    source = tensor_at(module, name)
    if isinstance(source, nn.Parameter):
        target._parameters[local] = source
    else:
        target._buffers[local] = source


def from_spec(spec: Mapping[str, Json], seed: int, device: str = "cpu") -> nn.Module:
    """Return the layer that a spec such as ``{"type": "conv2d", "in_channels": 8, "out_channels": 8}`` names.

    Args:
        spec: type and arguments.
        seed: for its initialisation.
        device: where to make it; ``"meta"`` for shapes alone.

    Raises:
        UsageError: if the type is unknown, or an argument is missing or wrong.
    """
    if not isinstance(spec, Mapping) or not isinstance(spec.get("type"), str):
        raise UsageError(f"a layer spec is a mapping with a 'type', got {spec!r}")
    kind = kind_named(spec["type"])
    config = {**kind.defaults, **{key: plain(value) for key, value in spec.items() if key != "type"}}
    if unknown := set(config) - set(kind.readers):
        raise UsageError(f"layer type {kind.name!r} takes {sorted(kind.readers)}, not {sorted(unknown)}")
    try:
        canonical_bytes(config)
        return seeded(seed, lambda: kind.build(config), device)
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise UsageError(f"layer spec {dict(spec)!r} is wrong: {error}") from error


def fragment_of(module: nn.Module) -> Architecture:
    """Return the description of a free-standing module that is about to be added.

    Raises:
        UsageError: if it holds classes that no registered layer kind describes.
    """
    fragment = describe(module)
    if opaque := opaque_classes(fragment):
        raise UsageError(
            f"classes {', '.join(opaque)} are described by no registered layer kind, so a replay could not build "
            "them; compose the layer of registered kinds or register its class with esper_es.layer_kind"
        )
    return fragment


def wrapped(kind: str, config: Mapping[str, Json], child_name: str, child: Architecture) -> Architecture:
    """Return the description of a one-child container around a fragment."""
    nodes = {"": ModuleNode(kind, dict(config), {}, (child_name,))}
    nodes |= {join_path(child_name, path): node for path, node in child.nodes.items()}
    ties = {join_path(child_name, a): join_path(child_name, b) for a, b in child.ties.items()}
    return Architecture(nodes, (), {}, ties)
