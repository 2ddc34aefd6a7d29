"""Attributes that go with resized dimensions, asked of the adapters of the modules around them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import nn

from esper_es.domain.architecture import join_path, relative_path, split_path
from esper_es.domain.edits import SetAttribute
from esper_es.domain.errors import Refused
from esper_es.planning.attributes import torch_adapters, transformers_adapters  # noqa: F401  (fill the registry)
from esper_es.planning.attributes.width_adapters import LocalDim, SizeChange, WidthRepair, adapter_for
from esper_es.planning.resizing import Resizing
from esper_es.projections.live.kinds import plain
from esper_es.projections.live.names import own_tensors, tensor_at

Resize = Callable[[str, int, int, str], Sequence[Resizing]]
"""Resizes the group of one dimension of a tensor to a size; the last argument says why."""

_DERIVED = re.compile(r"^(?:parametrizations\.(\w+)\.original\d*|(\w+)_(?:orig|v))$")
"""Tensors from which a parametrization computes another one: weight norm, spectral norm, pruning."""


def changes_by_module(
    root: nn.Module, resizings: Iterable[Resizing]
) -> dict[str, dict[LocalDim, SizeChange]]:
    """Return, for each module, the sizes that change in it or below it, tensors by names relative to it.

    All holders of a tied tensor are told. A parametrized tensor is told of under its own name too.
    """
    resizings = tuple(resizings)
    names = _names_of(root, (tensor_at(root, r.member.tensor) for r in resizings))
    found: dict[str, dict[LocalDim, SizeChange]] = {}
    for r in resizings:
        for name in names[id(tensor_at(root, r.member.tensor))]:
            for path in _holders(name):
                local = relative_path(name, path) or name
                known = found.setdefault(path, {}).get((local, r.member.dim))
                old = r.old_size if known is None else known.old
                change = SizeChange(
                    old, r.new_size, r.group.units, r.units, r.group.head_size, r.new_head_size
                )
                found[path][local, r.member.dim] = change
                if (derived := _derived(root, path, local, r)) is not None:
                    found[path][derived, r.member.dim] = change
    return found


def _derived(root: nn.Module, path: str, local: str, resizing: Resizing) -> str | None:
    """Name of the tensor that is computed from this one, where both have the same shape."""
    match = _DERIVED.match(local)
    if match is None:
        return None
    name = match[1] or match[2]
    computed = getattr(root.get_submodule(path), name, None)
    source = tensor_at(root, resizing.member.tensor)
    return name if getattr(computed, "shape", None) == source.shape else None


def _names_of(root: nn.Module, tensors: Iterable[torch.Tensor]) -> dict[int, list[str]]:
    """All names of some tensors, by the identities of these."""
    names: dict[int, list[str]] = {id(tensor): [] for tensor in tensors}
    for path, module in root.named_modules():
        for local, tensor, _ in own_tensors(module):
            if id(tensor) in names:
                names[id(tensor)].append(join_path(path, local))
    return names


def _holders(name: str) -> Iterator[str]:
    path = name
    while path:
        path = split_path(path)[0]
        yield path


def coupled(root: nn.Module, resizings: Sequence[Resizing], resize: Resize) -> tuple[Resizing, ...]:
    """Return ``resizings`` with those that the adapters ask for besides, until none asks any more.

    Raises:
        Refused: if a dimension would have to change in two ways, or can't change as asked.
    """
    known = list(resizings)
    while (wanted := _unmet(root, known)) is not None:
        tensor, dim, size, why = wanted
        added = resize(tensor, dim, size, why)
        taken = {(r.member.tensor, r.member.dim) for r in known}
        both = next((r.member for r in added if (r.member.tensor, r.member.dim) in taken), None)
        if both is not None:
            raise Refused(
                f"{why}, and {both.tensor} dim {both.dim} would have to change for two reasons at once",
                "coupled",
            )
        known += added
    return tuple(known)


def _unmet(root: nn.Module, resizings: Sequence[Resizing]) -> tuple[str, int, int, str] | None:
    sizes = {(r.member.tensor, r.member.dim): r.new_size for r in resizings}
    for path, repair in _repairs(root, resizings):
        for (local, dim), size in repair.sizes.items():
            name = join_path(path, local)
            tensor = tensor_at(root, name)
            if sizes.get((name, dim), tensor.shape[dim]) != size:
                kind = type(root.get_submodule(path)).__name__
                return name, dim, size, f"{kind} {path!r} needs {size} in dimension {dim} of {local!r} then"
    return None


def adapted(root: nn.Module, resizings: Sequence[Resizing]) -> tuple[SetAttribute, ...]:
    """Return the attributes that the adapters set, those left out that have their value already."""
    edits = []
    for path, repair in _repairs(root, resizings):
        present: Mapping[str, object] = root.get_submodule(path).__dict__
        edits += [
            SetAttribute(path, name, value)
            for name, value in repair.attributes.items()
            if plain(present.get(name)) != value
        ]
    return tuple(edits)


def _repairs(root: nn.Module, resizings: Sequence[Resizing]) -> Iterator[tuple[str, WidthRepair]]:
    for path, changes in changes_by_module(root, resizings).items():
        module = root.get_submodule(path)
        adapter = adapter_for(module)
        if adapter is not None:
            yield path, adapter(module, changes)
