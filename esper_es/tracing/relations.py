"""What an execution says about slots: which are one channel, which come and go together, which are pinned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple, TypeVar

import numpy as np

from esper_es.tracing.roles import Role
from esper_es.tracing.shadow import NOBODY
from esper_es.tracing.union_find import Ids, UnionFind

Key = TypeVar("Key")


class Site(NamedTuple):
    """Where something was observed: an operator, and the path of the module that was running it."""

    op: str
    module: str


class Cause(NamedTuple):
    """Why slots are pinned, and where."""

    reason: str
    module: str


CUTS = ("aten.split", "aten.unsafe_split")
"""Operators that cut a dimension into equal parts."""


class Settled(NamedTuple):
    """All relations at the end of a trace, as flat arrays over slots.

    ``same[s]`` and ``units[s]`` are the smallest slot of the class of ``s``: one channel, and everything that
    comes and goes with it. ``paired`` are slots that a product of other things than weights was summed over. ``met``
    lists (slots of either factor of a product that no weight was in, how many each sum was over). ``shares``
    lists (channels that several units have in common, what of these each of them meets); see ``Relations.share``.
    ``cuts`` lists (channels of the first of equal parts, what operator cut them). The other three list (slots, what
    was observed about them).
    """

    same: Ids
    units: Ids
    paired: Ids
    met: tuple[tuple[Ids, int], ...]
    shares: tuple[tuple[Ids, Ids], ...]
    cuts: tuple[tuple[Ids, Site], ...]
    pins: tuple[tuple[Ids, Cause], ...]
    reductions: tuple[tuple[Ids, Site], ...]
    roles: tuple[tuple[Ids, Role, str], ...]


class Relations:
    """Collects observations while a model runs; nothing is resolved before ``settled``."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._named = slots
        self._same: list[tuple[Ids, Ids, Site]] = []
        self._bundles: list[tuple[Ids, Ids, Site]] = []
        self._shares: list[tuple[Ids, Ids, Site]] = []
        self._abreast: list[tuple[Sequence[Ids], Site]] = []
        self._followers: list[tuple[Ids, list[Ids], Site]] = []
        self._pins: dict[Cause, list[Ids]] = {}
        self._reductions: dict[Site, list[Ids]] = {}
        self._roles: dict[tuple[Role, str], list[Ids]] = {}
        self._read: list[Ids] = []
        self._paired: list[Ids] = []
        self._met: dict[int, list[Ids]] = {}
        self._pinned = np.zeros(slots + 1, dtype=bool)
        self._pinned[NOBODY] = True

    def nameless(self, count: int) -> Ids:
        """New ids that are in no tensor: what one tensor is repeated for, however many others there are."""
        self._named += count
        return np.arange(self._named - count, self._named, dtype=np.int64)

    def are_nameless(self, ids: Ids) -> bool:
        """Whether ids are of those that no tensor has."""
        return bool(ids.flat[0] >= self._slots)

    def _in_tensors(self, ids: Ids) -> Ids:
        flat = ids.ravel()
        return flat if self._named == self._slots else flat[flat < self._slots]

    def same(self, left: Ids, right: Ids, site: Site) -> None:
        """``left[i]`` and ``right[i]`` are one channel seen in two places."""
        if left is not right:
            self._same.append((left.ravel(), right.ravel(), site))

    def bundle(self, left: Ids, right: Ids, site: Site) -> None:
        """``left[i]`` and ``right[i]`` can only come and go together."""
        self._bundles.append((left.ravel(), right.ravel(), site))

    def share(self, few: Ids, many: Ids, site: Site) -> None:
        """``few[i]``, of a weight, meets every ``many[i, j]``.

        Where each ``many[:, j]`` is one unit (a head, whose channels pass a norm that all heads have in common),
        units come and go without the weight, whose channels stay. Otherwise ``few[i]`` comes and goes with all
        ``many[i]``.
        """
        self._shares.append((few, many, site))

    def abreast(self, parts: Sequence[Ids], site: Site) -> None:
        """Slices ``part[:, i]`` stand side by side, those of all parts.

        Where every slice is of one unit (a head), slices come and go by themselves. Otherwise what stands at one place
        of each slice comes and goes together.
        """
        self._abreast.append((parts, site))

    def follow(self, ids: Ids, among: Sequence[Ids], site: Site) -> None:
        """``ids``, of a buffer, lie along a dimension that channels of several kinds share: those of a convolution and
        the places of its kernel, flattened. They come and go with the one kind that is not pinned.
        """
        self._followers.append((ids.ravel(), [other.ravel() for other in among], site))

    def pin(self, ids: Ids, reason: str, module: str) -> None:
        """None of these channels may come or go, nor may any that is bound to them."""
        flat = self._in_tensors(ids)
        self._pinned[flat] = True
        self._pins.setdefault(Cause(reason, module), []).append(flat)

    def reduce(self, ids: Ids, site: Site) -> None:
        """The operator mixes these channels, so its result depends on how many there are."""
        self._reductions.setdefault(site, []).append(self._in_tensors(ids))

    def read(self, ids: Ids, paired: bool) -> None:
        """A product was summed over these channels: this is where they arrive. ``paired``: no weight was in it."""
        self._read.append(self._in_tensors(ids))
        if paired:
            self._paired.append(self._in_tensors(ids))

    def meet(self, ids: Ids, size: int) -> None:
        """A product was summed over these channels and others, none of which a weight holds, ``size`` at a time."""
        self._met.setdefault(size, []).append(self._in_tensors(ids))

    def play(self, ids: Ids, role: Role, module: str) -> None:
        self._roles.setdefault((role, module), []).append(self._in_tensors(ids))

    def all_pinned(self, ids: Ids) -> bool:
        """Whether each of the channels was pinned by itself already (bonds are not followed)."""
        return (
            not self.are_nameless(ids) and bool(self._pinned[ids.flat[0]]) and bool(self._pinned[ids].all())
        )

    def settled(self) -> Settled:
        sets = UnionFind(self._named)
        self._unite(sets, self._same)
        same = sets.labels()[: self._slots]
        self._unite(sets, self._bundles)
        self._settle_abreast(sets)
        self._settle_shares(sets)
        self._settle_followers(sets)
        units = sets.labels()[: self._slots]
        self._pin_dead_ends(units)
        return Settled(
            same=same,
            units=units,
            paired=_known(self._paired),
            met=tuple((_known(parts), size) for size, parts in self._met.items()),
            shares=tuple((few, many) for few, many, _ in self._shares),
            cuts=tuple((ids, site) for ids, _, site in self._bundles if site.op in CUTS),
            pins=tuple(_observed(self._pins)),
            reductions=tuple(_observed(self._reductions)),
            roles=tuple((ids, role, module) for ids, (role, module) in _observed(self._roles)),
        )

    def _settle_shares(self, sets: UnionFind) -> None:
        units, bundles = sets.labels(), []
        for few, many, site in self._shares:
            found = units[many]
            whole = (found == found[:1]).all() and many.min() != NOBODY
            if whole and len(few) > 1 and (found[0] != found[0, 0]).any():
                self.pin(few, f"is shared by several units in {site.op}", site.module)
            else:
                bundles.append((few, many[:, 0], site))
                bundles.append((np.repeat(many[:, :1], many.shape[1], axis=1).ravel(), many.ravel(), site))
        self._unite(sets, bundles)

    def _settle_abreast(self, sets: UnionFind) -> None:
        for parts, site in self._abreast:
            units = sets.labels()
            if any((part == NOBODY).any() or (units[part] != units[part[:1]]).any() for part in parts):
                first = parts[0][:, :1]
                every = np.concatenate(parts, axis=1)
                self._unite(sets, [(np.broadcast_to(first, every.shape).ravel(), every.ravel(), site)])

    def _settle_followers(self, sets: UnionFind) -> None:
        if not self._followers:
            return
        units = sets.labels()
        pinned = np.zeros(len(units), dtype=bool)
        for parts in self._pins.values():
            pinned[units[_known(parts)]] = True
        for ids, among, site in self._followers:
            free = [other for other in among if not pinned[units[other]].all()]
            if len(free) == 1:
                self._unite(sets, [(ids, free[0], site)])
                continue
            reason = "is measured along several dimensions at once by" if free else "measures what stays in"
            for each in (ids, *free):
                self.pin(each, f"{reason} {site.op}", site.module)

    def _unite(self, sets: UnionFind, edges: list[tuple[Ids, Ids, Site]]) -> None:
        if not edges:
            return
        left = np.concatenate([edge[0] for edge in edges])
        right = np.concatenate([edge[1] for edge in edges])
        alone = (left == NOBODY) | (right == NOBODY)
        if alone.any():
            self._pin_met_by_nobody(left, right, edges)
            left, right = left[~alone], right[~alone]
        sets.union(left, right)

    def _pin_dead_ends(self, units: Ids) -> None:
        """Channels that were made and arrive nowhere went where nothing was seen, if not to waste."""
        arrived = np.zeros(self._slots, dtype=bool)
        seen = [*self._read, *chain(*self._reductions.values()), *chain(*self._pins.values())]
        arrived[units[_known(seen)]] = True
        made = {key: parts for key, parts in self._roles.items() if key[0] == "producer"}
        if arrived[units[_known(list(chain(*made.values())))]].all():
            return
        for ids, (_, module) in _observed(made):
            lost = ids[~arrived[units[ids]]]
            if lost.size:
                self.pin(lost, "makes channels that are read nowhere in sight", module)

    def _pin_met_by_nobody(self, left: Ids, right: Ids, edges: list[tuple[Ids, Ids, Site]]) -> None:
        start = 0
        for edge_left, _, site in edges:
            part = slice(start, start + len(edge_left))
            start = part.stop
            one_sided = (left[part] == NOBODY) != (right[part] == NOBODY)
            if one_sided.any():
                ids = np.maximum(left[part], right[part])[one_sided]
                self.pin(ids, f"meets a tensor without channels in {site.op}", site.module)


def _known(parts: Sequence[Ids]) -> Ids:
    ids: Ids = np.concatenate([_NONE, *parts])
    known: Ids = ids[ids != NOBODY]
    return known


def _observed(observations: Mapping[Key, Sequence[Ids]]) -> list[tuple[Ids, Key]]:
    """All slots of each observation."""
    joined = [
        (parts[0] if len(parts) == 1 else np.concatenate(parts), key) for key, parts in observations.items()
    ]
    every = np.concatenate([_NONE, *(ids for ids, _ in joined)])
    if not (every == NOBODY).any():
        return joined
    return [(ids[ids != NOBODY], key) for ids, key in joined]


_NONE: Ids = np.zeros(0, dtype=np.int64)
