"""The proof that a width surgery kept every route."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from attrs import evolve

from esper_es.domain.edits import ScaleSlice
from esper_es.domain.index_map import IndexMap
from esper_es.effects import output_difference
from esper_es.planning.observation import observe
from esper_es.planning.resizing import Resizing, are_apart, gathers
from esper_es.planning.scene import Scene
from esper_es.planning.trial import tolerance, tried
from esper_es.projections.live.names import tensor_at
from esper_es.tracing import Trace, WidthGroup, claimed, misread, prove
from esper_es.tracing.union_find import Ids

Proof = Callable[[], tuple[str, ...]]
"""Looks at the copy of the model, on which the surgery was done, and returns what is wrong."""


def width_proof(scene: Scene, before: Trace, resizings: Sequence[Resizing]) -> Proof:
    """Return a proof by a second trace.

    A single unit has no order that a trace could compare. Where one unit is all that is left of a group that no norm
    mixes, the outputs decide instead: they must be those of the old model in which nothing reads the other units. Where
    one unit is all that there was, the second trace must show several alike, laid out as the first was taken to be.
    Outputs to which the unit that is left contributes nothing decide nothing.
    """
    maps = gathers(resizings)
    alone = [r for r in resizings if r.growth is None and r.units == 1 and r.group.units > 1]
    masked = None
    if (
        alone
        and len(alone) == len(resizings)
        and are_apart(resizings)
        and not any(r.group.reduced_by for r in alone)
    ):
        masked = _telling_outputs(scene, alone)
    if any(r.group.whole for r in resizings):
        return _proof_of_several(scene, before, resizings)

    def proof() -> tuple[str, ...]:
        findings = prove(before, scene.trace_again(), maps)
        if not findings or masked is None:
            return findings
        return () if _agree(scene, masked, _outputs_of_one(scene, alone, narrowed=True, seed=0)) else findings

    return proof


def _proof_of_several(scene: Scene, before: Trace, resizings: Sequence[Resizing]) -> Proof:
    """Proof that what was taken for one unit, a head, is one of several now.

    A single head may show less than several do, as where rotary positions pin its channels. What the second trace shows
    inside of a head is trusted only if the outputs are the old ones while nothing reads the new heads, or with them
    where they share what the old one did, and are not while nothing reads any.
    """
    maps = gathers(resizings)
    wholes = [r for r in resizings if r.group.whole]
    groups = tuple({id(r.group): r.group for r in wholes}.values())
    arrays = {place: np.array(gather, dtype=np.int64) for place, gather in maps.items()}
    units = {(r.member.tensor, r.member.dim): r.new_units for r in wholes}
    tolerance(scene)
    outputs = observe(scene.shadow, scene.examples).outputs

    def proof() -> tuple[str, ...]:
        after = scene.trace_again()
        wrong = tuple(finding for group in groups for finding in misread(after, group, units))
        if wrong:
            return wrong
        findings = prove(claimed(before, after, groups, arrays, trusted=False), after, maps)
        if not findings or prove(claimed(before, after, groups, arrays, trusted=True), after, maps):
            return findings
        kept = any(_are_outputs(scene, outputs, edits) for edits in (_muted(wholes), ()))
        return () if kept and not _are_outputs(scene, outputs, _muted(wholes, all_units=True)) else findings

    return proof


def proof_of_one(scene: Scene, before: Trace, resizings: Sequence[Resizing]) -> Proof:
    """Proof that of several units one is left: its channels are the same ones as they were, bound to no others, and
    nothing shows that the model takes them for several again.

    Whether it takes them for one unit it does not say.
    """
    group = resizings[0].group
    maps = gathers(resizings)
    groups = tuple(
        _left_over(group, resizings) for group in {id(r.group): r.group for r in resizings}.values()
    )
    back = {(r.member.tensor, r.member.dim): _inverse(r) for r in resizings}

    def proof() -> tuple[str, ...]:
        after = scene.trace_again()
        if after.group_of(group.tensor, group.dim).compact:
            return (f"what is left of {group.tensor} dim {group.dim} is several units",)
        return prove(before, claimed(after, before, groups, back, trusted=False), maps)

    return proof


def _left_over(group: WidthGroup, resizings: Sequence[Resizing]) -> WidthGroup:
    """A group as it is afterwards, if what is left of it is one unit."""
    members = []
    for r in resizings:
        if r.group is group:
            inside = r.member.positions[np.array(list(r.gather), dtype=np.int64)] >= 0
            members.append(evolve(r.member, positions=np.where(inside, 0, -1)))
    return evolve(group, units=1, members=tuple(members))


def _inverse(resizing: Resizing) -> Ids:
    """New index of each old one, -1 for those that go."""
    back = np.full(resizing.old_size, -1, dtype=np.int64)
    back[np.array(list(resizing.gather), dtype=np.int64)] = np.arange(resizing.new_size)
    return back


def _are_outputs(scene: Scene, expected: Sequence[torch.Tensor], edits: Iterable[ScaleSlice] = ()) -> bool:
    """Say whether the copy has these outputs, under edits."""
    found = tried(scene.shadow, edits, {}, lambda: observe(scene.shadow, scene.examples).outputs)
    return _agree(scene, expected, found)


def _agree(scene: Scene, expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> bool:
    changed = output_difference(expected, found)
    return changed is not None and changed <= tolerance(scene)


def _telling_outputs(scene: Scene, resizings: Sequence[Resizing]) -> tuple[torch.Tensor, ...] | None:
    """Outputs of the copy while only the unit that stays is read; None if they are the same while none is."""
    tolerance(scene)
    alone = _outputs_of_one(scene, resizings, narrowed=False, seed=0)
    silent = _outputs_of_one(scene, resizings, narrowed=False, seed=None)
    return None if _agree(scene, alone, silent) else alone


def _outputs_of_one(
    scene: Scene, resizings: Sequence[Resizing], *, narrowed: bool, seed: int | None
) -> tuple[torch.Tensor, ...]:
    """Outputs of the copy while nothing reads a unit that goes, and weights that are drawn read the one that stays.

    Its own may be zeros, as those of a new head are, and then the outputs would tell nothing.

    Args:
        narrowed: whether the copy is narrowed already.
        seed: to draw from; without, nothing reads the one either.
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    before: list[tuple[torch.Tensor, torch.Tensor]] = []
    try:
        for r in resizings:
            if r.member.role == "consumer":
                tensor = tensor_at(scene.shadow, r.member.tensor)
                before.append((tensor, tensor.data))
                beside = [o for o in resizings if o.member.tensor == r.member.tensor and o is not r]
                tensor.data = _read_anew(tensor.detach(), r, beside if narrowed else None, generator)
        return observe(scene.shadow, scene.examples).outputs
    finally:
        for tensor, data in before:
            tensor.data = data


def _read_anew(
    tensor: torch.Tensor,
    resizing: Resizing,
    narrowed: Sequence[Resizing] | None,
    generator: torch.Generator | None,
) -> torch.Tensor:
    """A tensor with other entries along one dimension.

    Args:
        narrowed: what else is narrowed in a tensor that is narrowed already; None where it is not. The same is drawn.
    """
    dim, old = resizing.member.dim, np.array(list(resizing.gather), dtype=np.int64)
    kept = np.flatnonzero(resizing.member.positions[old] >= 0)
    whole = narrowed is None
    group = np.flatnonzero(resizing.member.positions >= 0) if whole else kept
    staying = torch.from_numpy(old[kept] if whole else kept).to(tensor.device)
    result = tensor.index_fill(dim, torch.from_numpy(group).to(tensor.device), 0)
    if generator is None:
        return result
    shape = [*tensor.shape[:dim], len(kept), *tensor.shape[dim + 1 :]]
    for other in narrowed or ():
        shape[other.member.dim] = other.old_size
    drawn = torch.randn(shape, generator=generator, device="cpu") / len(kept) ** 0.5
    for other in narrowed or ():
        drawn = drawn.index_select(other.member.dim, torch.tensor(list(other.gather), device="cpu"))
    return result.index_copy(dim, staying, drawn.to(result))


def _muted(resizings: Sequence[Resizing], *, all_units: bool = False) -> Iterator[ScaleSlice]:
    """Weights of zero for what reads units that go, or units that are new, or any after a growth."""
    for r in resizings:
        if r.member.role == "consumer":
            muted = np.flatnonzero(r.new_units >= 0) if all_units else _changed(r)
            yield ScaleSlice(r.member.tensor, r.member.dim, IndexMap.of(muted.tolist()), 0.0)


def _changed(resizing: Resizing) -> Ids:
    """New indices that are new, or old ones that go."""
    gather = np.array(list(resizing.gather), dtype=np.int64)
    if resizing.growth is None:
        return np.setdiff1d(np.arange(resizing.old_size), gather)
    return np.flatnonzero(gather < 0)
