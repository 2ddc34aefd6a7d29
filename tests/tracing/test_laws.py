"""Laws over random architectures."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from esper_es.tracing import Refusal, WidthGroup, group_growth, group_selection, prove, trace

from .random_nets import NETS, RandomNet
from .surgery import output, resized
from .zoo import example

LAW = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
IMAGE = torch.randn(2, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def grown(group: WidthGroup, count: int) -> dict[tuple[str, int], Any] | None:
    result = group_growth(group, count)
    if isinstance(result, Refusal):
        return None
    return {(member.tensor, member.dim): growth.gather for member, growth in result}


@LAW
@given(NETS, st.integers(1, 2))
def test_growing_a_free_group_keeps_the_function_and_is_proven(net: RandomNet, count: int) -> None:
    examples = example(IMAGE)
    before = trace(net, examples)
    expected = output(net, examples[0])
    for group in before.width_groups:
        maps = grown(group, count) if group.free else None
        event(f"{'pinned' if not group.free else 'irregular' if maps is None else 'grown'}")
        if maps is not None:
            new = resized(net, group, maps)
            assert (output(new, examples[0]) - expected).abs().max() < 1e-5
            assert prove(before, trace(new, examples), maps) == ()


@LAW
@given(NETS, st.data())
def test_a_growth_with_new_indices_in_a_wrong_place_is_refused(net: RandomNet, data: st.DataObject) -> None:
    examples = example(IMAGE)
    before = trace(net, examples)
    for group in before.width_groups:
        maps = grown(group, 1) if group.free else None
        if maps is None:
            continue
        place = data.draw(st.sampled_from(sorted(maps)))
        at_the_end = np.sort(maps[place])
        at_the_end = np.r_[at_the_end[at_the_end >= 0], at_the_end[at_the_end < 0]]
        if (at_the_end == maps[place]).all() or group.units == 1:
            continue
        maps[place] = at_the_end
        event("placed wrongly")
        assert prove(before, trace(resized(net, group, maps), examples), maps)


@LAW
@given(NETS, st.data())
def test_two_swapped_units_in_one_member_are_refused(net: RandomNet, data: st.DataObject) -> None:
    examples = example(IMAGE)
    before = trace(net, examples)
    for group in before.width_groups:
        if group.units < 2 or len(group.members) < 2:
            continue
        member = data.draw(st.sampled_from(group.members))
        covered = np.flatnonzero(member.positions >= 0)
        first, second = data.draw(
            st.lists(st.sampled_from(covered.tolist()), min_size=2, max_size=2, unique=True)
        )
        if member.positions[first] == member.positions[second]:
            continue
        swapped = np.arange(len(member.positions))
        swapped[[first, second]] = second, first
        maps = {(member.tensor, member.dim): swapped}
        event("swapped")
        assert prove(before, trace(resized(net, group, maps), examples), maps)


@LAW
@given(NETS, st.data())
def test_keeping_some_units_of_a_free_group_is_proven(net: RandomNet, data: st.DataObject) -> None:
    examples = example(IMAGE)
    before = trace(net, examples)
    for group in before.width_groups:
        if group.units < 3:
            continue
        kept = data.draw(st.sets(st.integers(0, group.units - 1), min_size=2))
        result = group_selection(group, kept)
        if isinstance(result, Refusal):
            continue
        maps = {(member.tensor, member.dim): gather for member, gather in result}
        event("shrunk")
        assert prove(before, trace(resized(net, group, maps), examples), maps) == ()
