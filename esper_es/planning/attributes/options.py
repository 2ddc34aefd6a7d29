"""Integers of user code that might count what changes: candidates for repair, and how sure they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from attrs import frozen
from torch import nn

from esper_es.domain.architecture import join_path
from esper_es.domain.canonical import Json
from esper_es.domain.edits import SetAttribute
from esper_es.planning.attributes.repair import changes_by_module
from esper_es.planning.attributes.width_adapters import LocalDim, SizeChange, adapter_for
from esper_es.planning.resizing import Resizing
from esper_es.projections.live.hosting import original_class
from esper_es.projections.live.kinds import plain
from esper_es.projections.live.names import named_tensors, own_tensors
from esper_es.tracing import WidthGroup

HEAD_TOTALS = frozenset(
    ("all_head_size", "inner_dim", "inner_size", "split_size", "attn_dim", "attention_dim", "qkv_dim")
)
HEAD_COUNTS = re.compile(r"(?:num_?|n_?)?(?:(?:attention_|attn_|kv_|key_value_|query_|q_)?heads?|groups)")
CONFIG = "config"
"""Attribute under which modules hold their settings."""
STREAMS = frozenset(("hidden_size", "embed_dim", "d_model", "hidden_dim", "embedding_dim", "dim", "channels"))


@frozen
class Option:
    """One attribute of all modules of one class that hold the same old value and are near what changes.

    Attributes:
        cls: name of the class.
        name: of the attribute.
        sure: whether nothing else that the attribute could count has the old value.
        near: whether the modules hold a tensor that changes.
        edits: one for each module.
    """

    cls: str
    name: str
    sure: bool
    near: bool
    edits: tuple[SetAttribute, ...]


@frozen(order=True)
class _Count:
    """Something that could be counted: its value before and after, and whether it is the number of units."""

    old: int
    new: int
    units: bool = False


def options(root: nn.Module, resizings: Sequence[Resizing]) -> tuple[Option, ...]:
    """Return what could be set on modules without an adapter, those in and around the layers that change first.

    Args:
        root: the model as it is.
        resizings: what changes.
    """
    near = changes_by_module(root, resizings)
    by_sizes: dict[tuple[int, int], set[_Count]] = {}
    groups = {id(r.group): r.group for r in resizings}
    compound = {key: _is_compound(group) for key, group in groups.items()}
    for r in resizings:
        by_sizes.setdefault((r.old_size, r.new_size), set()).update(_counts(r, compound[id(r.group)]))
    everything = sorted(set().union(*by_sizes.values()))
    new_sizes = {r.member.tensor: r.new_size for r in resizings if r.member.dim == 0}
    found: dict[tuple[bool, str, str, str], list[tuple[bool, SetAttribute]]] = {}
    for path, module in root.named_modules():
        if not any(map(_is_numeric, vars(module).values())):
            continue
        if adapter_for(module) is not None and any(True for _ in own_tensors(module)):
            continue
        changes = near.get(path)
        cls = original_class(module).__qualname__
        sizes = {(change.old, change.new) for change in (changes or {}).values()}
        local = set().union(*(by_sizes.get(size, ()) for size in sizes))
        for name, value in _of_parts(path, module, new_sizes):
            found.setdefault((True, cls, name, "of its parts"), []).append(
                (False, SetAttribute(path, name, value))
            )
        for count in everything:
            for name, number, value in _replacements(module, count):
                sure = changes is not None and count in local and _sure(module, name, count, changes)
                key = (count in local, cls, name, f"{count.old}->{count.new} {number}")
                found.setdefault(key, []).append((sure, SetAttribute(path, name, value)))
        for name, changed, value in _recounted(module, everything):
            found.setdefault((changes is not None, cls, name, changed), []).append(
                (False, SetAttribute(path, name, value))
            )
    for path, config in configurations(root):
        for count in everything:
            for name, number, value in _replacements(config, count):
                key = (False, type(config).__qualname__, name, f"{count.old}->{count.new} {number}")
                edit = SetAttribute(path, f"{CONFIG}.{name}", value)
                found.setdefault(key, []).append((False, edit))
    return tuple(
        Option(cls, name, all(sure for sure, _ in edits), near, _once_each(edit for _, edit in edits))
        for (near, cls, name, _), edits in found.items()
    )


def configurations(root: nn.Module) -> Iterator[tuple[str, object]]:
    """The objects in which modules keep their settings, each with the path of the first module that holds it.

    Most are shared by all modules of a model; what a forward pass reads there holds for all of them.
    """
    seen: set[int] = set()
    for path, module in root.named_modules():
        config = module.__dict__.get(CONFIG)
        if (
            hasattr(config, "__dict__")
            and not isinstance(config, nn.Module | type)
            and id(config) not in seen
        ):
            seen.add(id(config))
            yield path, config


def _once_each(edits: Iterable[SetAttribute]) -> tuple[SetAttribute, ...]:
    """Two counts may change alike: the size of a group, and its units where each is one channel."""
    return tuple({edit.path: edit for edit in edits}.values())


def _replacements(holder: object, count: _Count) -> Iterator[tuple[str, int, Json]]:
    """Attributes of a module or its configuration with the old value, and what they would be; numbered where in doubt.

    A number of heads may be a multiple of the units: a unit of grouped queries has several.
    """
    for name, value in vars(holder).items():
        if name.startswith("_") or name == "training" or count.old == count.new:
            continue
        heads = count.units and HEAD_COUNTS.fullmatch(name) and type(value) is int and value % count.old == 0
        if heads:
            yield name, 0, value // count.old * count.new
        else:
            for number, replaced in enumerate(_replaced(value, count)):
                yield name, number, replaced


def _recounted(module: nn.Module, counts: Iterable[_Count]) -> Iterator[tuple[str, str, Json]]:
    """Sequences of integers in which several parts change at once, each by itself: the sizes of a split."""
    changes: dict[int, set[int]] = {}
    for count in counts:
        changes.setdefault(count.old, set()).add(count.new)
    clear = {old: next(iter(new)) for old, new in changes.items() if len(new) == 1}
    for name, value in module.__dict__.items():
        if _is_integers(value) and not name.startswith("_"):
            places = [i for i, v in enumerate(value) if clear.get(v, v) != v]
            if len({value[i] for i in places}) < 2 or len(places) > 4:
                continue
            for size in range(len(places), 1, -1):
                for chosen in combinations(places, size):
                    changed = [clear[v] if i in chosen else v for i, v in enumerate(value)]
                    yield name, f"{list(value)}->{changed}", plain(changed)


def _of_parts(path: str, module: nn.Module, new_sizes: Mapping[str, int]) -> Iterator[tuple[str, Json]]:
    """Sequences that tell the size of each layer inside, in order: the channels that each of several filters takes."""
    weights = [(join_path(path, local), t.shape[0]) for local, t in module.named_parameters() if t.ndim > 1]
    old = [size for _, size in weights]
    new = [new_sizes.get(name, size) for name, size in weights]
    if len(old) > 1 and new != old:
        yield from (
            (name, plain(new))
            for name, value in vars(module).items()
            if _is_integers(value) and not name.startswith("_") and list(value) == old
        )


def _is_numeric(value: Any) -> bool:
    return type(value) is int or _is_integers(value)


def _is_integers(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) <= 16 and all(type(v) is int for v in value)


def _is_compound(group: WidthGroup) -> bool:
    """Whether a unit has several channels somewhere."""
    return any(member.covered > group.units for member in group.members)


def _counts(resizing: Resizing, compound: bool) -> Iterator[_Count]:
    """All that can be counted about one dimension: its size, the part of the group, one run of units, the units."""
    group, positions = resizing.group, resizing.member.positions
    inside = positions[positions >= 0]
    grown = resizing.new_size - resizing.old_size
    if group.head_size:
        if resizing.member.role != "table":
            yield _Count(resizing.old_size, resizing.new_size)
            yield _Count(len(inside), len(inside) + grown)
            yield _Count(group.head_size, resizing.new_head_size)
        return
    runs = int((np.diff(inside) < 0).sum()) + 1
    sizes = [(resizing.old_size, resizing.new_size), (len(inside), len(inside) + grown)]
    if grown % runs == 0 and len(inside) % runs == 0:
        sizes.append((len(inside) // runs, (len(inside) + grown) // runs))
    yield from (_Count(old, new) for old, new in sizes if not (compound and old == group.units))
    every = group.units + group.others
    if group.whole or (compound and every > 1):
        for several in _several(group):
            yield _Count(several * every, several * (resizing.units + group.others), units=True)


def _several(group: WidthGroup) -> list[int]:
    """How many of something a unit may have: 1, and the query heads of one group of keys and values."""
    widths = {member.covered for member in group.members if member.covered > group.units}
    return sorted({1, *(width // min(widths) for width in widths if width % min(widths) == 0)})


def counted(resizing: Resizing) -> Iterator[tuple[int, int]]:
    """Yield the old and new values of all that can be counted about one dimension."""
    yield from ((count.old, count.new) for count in _counts(resizing, _is_compound(resizing.group)))


def _replaced(value: Any, count: _Count) -> Iterator[Json]:
    """Values that an attribute could get: one for an integer; for a sequence, all equal entries or each alone."""
    if type(value) is int:
        if value == count.old:
            yield count.new
    elif _is_integers(value):
        places = [i for i, v in enumerate(value) if v == count.old]
        if places:
            yield plain([count.new if i in places else v for i, v in enumerate(value)])
        if len(places) > 1:
            yield from (plain([*value[:i], count.new, *value[i + 1 :]]) for i in places)


def _sure(module: nn.Module, name: str, count: _Count, changes: Mapping[LocalDim, SizeChange]) -> bool:
    """Say whether an attribute can only count what changes: nothing else of its size is in sight, or its name tells."""
    if type(module.__dict__[name]) is not int:
        return False
    heads = any(change.old_head or change.old_units != change.old for change in changes.values())
    counts_heads = HEAD_COUNTS.fullmatch(name) is not None
    if count.units or counts_heads:
        return counts_heads and count.units
    if name in HEAD_TOTALS:
        return heads
    if name in STREAMS and not heads:
        return any(change.old == count.old for change in changes.values())
    return not any(
        size == count.old and (tensor, dim) not in changes
        for tensor, value, _ in named_tensors(module)
        for dim, size in enumerate(value.shape)
    )
