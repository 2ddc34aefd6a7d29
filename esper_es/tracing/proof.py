"""The proof that a surgery routed every surviving channel as before.

That a model runs after surgery does not say that it is right: columns put at the end of a concatenation
instead of after their own part, or a chunk cut in a new place, run without error. So the changed copy is
traced again, and the relations among the channels that survived must be the ones they had.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from esper_es.domain.errors import UsageError
from esper_es.tracing.provenance import Trace
from esper_es.tracing.relations import Settled
from esper_es.tracing.union_find import Ids

GatherMaps = Mapping[tuple[str, int], Sequence[int] | Ids]
"""For (tensor name, dim) the old index that each new index comes from, -1 if it is new."""

SHOWN = 8
"""How many findings of one kind are spelled out; the rest is counted."""


def prove(before: Trace, after: Trace, mapping: GatherMaps) -> tuple[str, ...]:
    """Compare the traces of a model before and after a surgery; no finding means that it is proven.

    Surviving channels must have bijectively identical classes under *same* and under *bundle*, keep their
    order within each of them, and be pinned exactly where they were. Nothing pinned may be added or
    removed. Tensors that only one of the models has are not compared, nor buffers that a model sizes by itself.

    Args:
        mapping: the gather map of each resized dimension, under any name of the tensor; others are unchanged.

    Raises:
        UsageError: a map names a tensor or a dimension that the models do not have.
    """
    maps = _by_first_name(before, mapping)
    survivors = _Survivors([], [], [], [])
    findings = list(_match(before, after, maps, survivors))
    if findings:
        return tuple(findings)
    old, new = _joined(survivors.old), _joined(survivors.new)
    was, now = before.relations, after.relations
    return tuple(
        finding
        for found in (
            _classes(before, after, old, new, was.same[old], now.same[new], "one channel"),
            _classes(before, after, old, new, was.units[old], now.units[new], "one unit"),
            _order(before, after, old, new),
            _pins(before, after, old, new, _joined(survivors.added), _joined(survivors.removed)),
        )
        for finding in _shortened(list(found))
    )


class _Survivors(NamedTuple):
    """Per matched dimension: old and new slots of what survived, new slots added, old slots removed."""

    old: list[range | Ids]
    new: list[range | Ids]
    added: list[Ids]
    removed: list[Ids]


def _by_first_name(before: Trace, mapping: GatherMaps) -> dict[tuple[str, int], Ids]:
    maps = {}
    for (name, dim), gather in mapping.items():
        tensor = before.index.named(name)
        if tensor is None:
            raise UsageError(f"a gather map names {name!r}, which the model before the surgery does not have")
        if not 0 <= dim < len(tensor.shape):
            raise UsageError(
                f"a gather map names dim {dim} of {name}, which has dims 0 to {len(tensor.shape) - 1}"
            )
        maps[tensor.name, dim] = np.asarray(gather, dtype=np.int64)
    return maps


def _match(
    before: Trace, after: Trace, maps: Mapping[tuple[str, int], Ids], survivors: _Survivors
) -> Iterator[str]:
    """Fill ``survivors``; findings are dimensions that the maps do not account for."""
    for old in before.tensors:
        new = next((found for name in old.names if (found := after.index.named(name)) is not None), None)
        if new is None:
            continue
        if old.table and len(old.shape) != len(new.shape):
            continue
        if len(old.shape) != len(new.shape):
            yield f"{old.name} had the shape {old.shape} and has {new.shape}: not the same number of dims"
            continue
        for dim, (size, resized) in enumerate(zip(old.shape, new.shape, strict=True)):
            gather = maps.get((old.name, dim))
            misfit = _misfit(size, resized, gather)
            if misfit is not None and old.table and gather is None:
                continue
            if misfit is not None:
                yield f"{old.name} dim {dim} {misfit}"
            elif gather is None:
                survivors.old.append(range(old.first_slots[dim], old.first_slots[dim] + size))
                survivors.new.append(range(new.first_slots[dim], new.first_slots[dim] + size))
            else:
                kept = gather[gather >= 0]
                survivors.old.append(old.first_slots[dim] + kept)
                survivors.new.append(new.first_slots[dim] + np.flatnonzero(gather >= 0))
                survivors.added.append(new.first_slots[dim] + np.flatnonzero(gather < 0))
                survivors.removed.append(old.first_slots[dim] + np.setdiff1d(np.arange(size), kept))


def _misfit(size: int, resized: int, gather: Ids | None) -> str | None:
    """What is wrong with a gather map, or with its absence."""
    if gather is None:
        return None if size == resized else f"changed from {size} to {resized}, but has no gather map"
    kept = gather[gather >= 0]
    if len(gather) != resized:
        return f"changed from {size} to {resized}, but its gather map has {len(gather)} entries"
    if kept.size and kept.max() >= size:
        return f"had {size} indices, but its gather map takes index {int(kept.max())}"
    if len(np.unique(kept)) != len(kept):
        return "has a gather map that takes an old index twice; a copy is a new index (-1)"
    return None


def _classes(before: Trace, after: Trace, old: Ids, new: Ids, was: Ids, now: Ids, what: str) -> Iterator[str]:
    """Old and new class labels must determine each other."""

    def told(one: int, two: int, change: str) -> str:
        here = f"{after.index.describe(int(new[one]))} and {after.index.describe(int(new[two]))}"
        there = f"{before.index.describe(int(old[one]))} and {before.index.describe(int(old[two]))}"
        return f"{here} {change} (they were {there})"

    for one, two in _torn(was, now):
        yield told(one, two, f"were {what} and are no longer")
    for one, two in _torn(now, was):
        yield told(one, two, f"are {what} now and were not")


def _torn(whole: Ids, parts: Ids) -> Iterator[tuple[int, int]]:
    """Pairs of positions with one label in ``whole`` and different ones in ``parts``."""
    if not whole.size or _determined(whole, parts):
        return
    order = np.lexsort((parts, whole))
    a, b = whole[order], parts[order]
    for cut in np.flatnonzero((a[1:] == a[:-1]) & (b[1:] != b[:-1])).tolist():
        yield int(order[cut]), int(order[cut + 1])


def _determined(labels: Ids, others: Ids) -> bool:
    """Say whether entries with one label have one other, without sorting them."""
    other = np.empty(int(labels.max()) + 1, dtype=np.int64)
    other[labels] = others
    return np.array_equal(other[labels], others)


def _order(before: Trace, after: Trace, old: Ids, new: Ids) -> Iterator[str]:
    """Within one dimension, indices of one unit and pinned indices keep their order."""
    places = before.index.place_numbers(old)
    if ((np.diff(old) > 0) & ((np.diff(new) > 0) | (np.diff(places) != 0))).all():
        return
    units = before.relations.units[old]
    pinned = _pinned(before.relations)
    rank = np.where(pinned[units], -1, units)
    order = np.lexsort((old, rank, places))
    together = (places[order][1:] == places[order][:-1]) & (rank[order][1:] == rank[order][:-1])
    for position in np.flatnonzero(together & (new[order][1:] < new[order][:-1])).tolist():
        first, second = order[position], order[position + 1]
        was = [before.index.describe(int(old[i])) for i in (first, second)]
        now = [after.index.describe(int(new[i])) for i in (first, second)]
        yield (
            f"{was[0]} stood before {was[1]}, now they are {now[0]} and {now[1]}: "
            "channels that are bound to each other keep their order"
        )


def _pins(before: Trace, after: Trace, old: Ids, new: Ids, added: Ids, removed: Ids) -> Iterator[str]:
    was, now = _pinned(before.relations), _pinned(after.relations)
    was_pinned, now_pinned = was[before.relations.units[old]], now[after.relations.units[new]]
    for position in np.flatnonzero(now_pinned & ~was_pinned).tolist():
        yield f"{after.index.describe(int(new[position]))} is pinned now ({_cause(after, new[position])})"
    for position in np.flatnonzero(was_pinned & ~now_pinned).tolist():
        yield f"{after.index.describe(int(new[position]))} was pinned ({_cause(before, old[position])})"
    for slot in added[now[after.relations.units[added]]]:
        yield f"{after.index.describe(int(slot))} was added where channels are pinned ({_cause(after, slot)})"
    for slot in removed[was[before.relations.units[removed]]]:
        yield f"{before.index.describe(int(slot))} was removed, but it is pinned ({_cause(before, slot)})"


def _pinned(relations: Settled) -> NDArray[np.bool_]:
    """For every unit, by its smallest slot, whether anything pins it."""
    flags = np.zeros(len(relations.units), dtype=bool)
    for ids, _ in relations.pins:
        flags[relations.units[ids]] = True
    return flags


def _cause(trace: Trace, slot: np.int64) -> str:
    unit = trace.relations.units[slot]
    return next(
        cause.reason for ids, cause in trace.relations.pins if (trace.relations.units[ids] == unit).any()
    )


def _joined(parts: Iterable[range | Ids]) -> Ids:
    joined: list[range | Ids] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, range) and isinstance(last, range) and last.stop == part.start:
            joined[-1] = range(last.start, part.stop)
        else:
            joined.append(part)
    ids = [np.arange(p.start, p.stop) if isinstance(p, range) else p for p in joined]
    return np.concatenate(ids) if ids else np.zeros(0, dtype=np.int64)


def _shortened(findings: list[str]) -> list[str]:
    if len(findings) <= SHOWN:
        return findings
    return [*findings[:SHOWN], f"and {len(findings) - SHOWN} more of this kind"]
