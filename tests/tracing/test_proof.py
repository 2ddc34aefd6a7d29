"""The proof accepts right surgeries and refuses ones that run without error but route wrongly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from esper_es.domain.errors import UsageError
from esper_es.tracing import prove, trace

from .surgery import growth_maps, output, resized
from .zoo import (
    Attention,
    Chunked,
    Flattened,
    Generator,
    GroupedConvs,
    GroupedQueries,
    PackedAttention,
    ResNet,
    SharedTwice,
    SqueezeExcite,
    TiedAutoencoder,
    UNet,
    example,
    image,
    sequence,
)

MODELS: dict[str, tuple[nn.Module, Tensor]] = {
    "resnet": (ResNet(), image()),
    "unet": (UNet(), image(8)),
    "channel-major flatten": (Flattened(channels_last=False), image(3)),
    "position-major flatten": (Flattened(channels_last=True), image(3)),
    "grouped": (GroupedConvs(), image()),
    "squeeze and excite": (SqueezeExcite(), image()),
    "tied": (TiedAutoencoder(), torch.randint(0, 11, (2, 7))),
    "shared": (SharedTwice(), torch.randn(4, 3)),
    "attention": (Attention(), sequence()),
    "rotary attention": (Attention(rotary=True), sequence()),
    "packed attention": (PackedAttention(), sequence()),
    "grouped queries": (GroupedQueries(), sequence()),
    "chunked": (Chunked(), image()),
    "generator": (Generator(), torch.randn(4, 5)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("count", [1, 3])
def test_every_free_group_grows_provably_and_keeps_the_function(name: str, count: int) -> None:
    model, x = MODELS[name]
    examples = example(x)
    before = trace(model, examples)
    expected = output(model, examples[0])
    grown = 0
    for group in before.width_groups:
        if not group.free:
            continue
        maps = growth_maps(group, count)
        new = resized(model, group, maps)
        assert torch.allclose(output(new, examples[0]), expected, atol=1e-5), group.tensor
        assert prove(before, trace(new, examples), maps) == ()
        grown += 1
    assert grown


@pytest.mark.parametrize("name", [n for n in MODELS if n != "grouped queries"])
def test_every_free_group_shrinks_provably(name: str) -> None:
    model, x = MODELS[name]
    examples = example(x)
    before = trace(model, examples)
    for group in before.width_groups:
        if group.free and group.units > 2:
            kept = np.arange(group.units) != 1
            maps = {
                (m.tensor, m.dim): np.flatnonzero((m.positions < 0) | kept[m.positions])
                for m in group.members
            }
            assert prove(before, trace(resized(model, group, maps), examples), maps) == ()


def misrouted(
    model: nn.Module, layer: str, wrong: dict[tuple[str, int], Any], x: Tensor, count: int = 1
) -> tuple[str, ...]:
    """Findings for a growth in which some dimensions were gathered by other maps than the right ones."""
    examples = example(x)
    before = trace(model, examples)
    group = before.group_of(layer)
    maps = growth_maps(group, count) | wrong
    new = resized(model, group, maps)
    output(new, examples[0])
    return prove(before, trace(new, examples), maps)


def test_columns_at_the_end_of_a_concatenation_are_refused() -> None:
    at_the_end = np.r_[np.arange(10), -1]
    findings = misrouted(UNet(), "up", {("merge.weight", 1): at_the_end}, image(8))
    assert any("are one channel now and were not" in finding for finding in findings)


def test_columns_of_the_wrong_flatten_order_are_refused() -> None:
    channel_major = np.r_[np.arange(36), [-1] * 9]
    assert misrouted(Flattened(channels_last=True), "conv", {("fc.weight", 1): channel_major}, image(3))


def test_a_column_per_channel_instead_of_a_block_at_the_end_is_refused() -> None:
    spread = np.concatenate([[*range(9 * c, 9 * c + 9), -1, -1][: 11 + (c == 3)] for c in range(4)])
    wrong = np.r_[spread, [-1] * (45 - len(spread))]
    assert misrouted(Flattened(channels_last=False), "conv", {("fc.weight", 1): wrong}, image(3))


def test_two_rows_at_the_end_of_a_chunk_are_refused() -> None:
    at_the_end = np.r_[np.arange(8), -1, -1]
    wrong = {("enter.weight", 0): at_the_end, ("enter.bias", 0): at_the_end}
    assert misrouted(Chunked(), "enter", wrong, image())


def test_half_a_chunk_is_refused() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both, self.left, self.right = nn.Linear(3, 8), nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            left, right = self.both(x).tensor_split(2, dim=-1)
            return self.left(left) + self.right(right)

    model, x = Half(), torch.randn(5, 3)
    before = trace(model, example(x))
    group = before.group_of("both")
    row, column = np.r_[np.arange(8), -1], np.r_[np.arange(4), -1]
    maps = {("both.weight", 0): row, ("both.bias", 0): row, ("left.weight", 1): column}
    new = resized(model, group, maps)
    output(new, ((x,), {}))
    assert prove(before, trace(new, example(x)), maps)


def test_new_heads_at_the_end_of_packed_rows_are_refused() -> None:
    at_the_end = np.r_[np.arange(36), [-1] * 12]
    wrong = {("qkv.weight", 0): at_the_end, ("qkv.bias", 0): at_the_end}
    assert misrouted(PackedAttention(), "qkv", wrong, sequence())


def test_gates_at_the_end_of_a_recurrent_layer_are_refused() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.leave = nn.LSTM(5, 6, batch_first=True), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.leave(self.cell(x)[0])

    at_the_end = np.r_[np.arange(24), [-1] * 4]
    names = [("weight_ih_l0", 0), ("weight_hh_l0", 0), ("bias_ih_l0", 0), ("bias_hh_l0", 0)]
    wrong = {(f"cell.{name}", dim): at_the_end for name, dim in names}
    assert misrouted(Recurrent(), "cell.weight_ih_l0", wrong, sequence())


def test_strided_pruning_across_heads_is_refused() -> None:
    model, x = Attention(), sequence()
    before = trace(model, example(x))
    group = before.group_of("q")
    strided = np.setdiff1d(np.arange(12), [1, 4, 7, 10])
    maps = {(m.tensor, m.dim): strided for m in group.members}
    new = resized(model, group, maps)
    output(new, ((x,), {}))
    assert any("one unit" in finding for finding in prove(before, trace(new, example(x)), maps))


def test_swapped_channels_in_one_of_two_producers_are_refused() -> None:
    wrong = np.array([1, 0, 2, 3, 4, 5, -1])
    assert misrouted(ResNet(), "stem.0", {("blocks.0.conv2.weight", 0): wrong}, image())


def test_swapped_columns_of_one_channel_are_refused() -> None:
    wrong = np.r_[1, 0, np.arange(2, 36), [-1] * 9]
    findings = misrouted(Flattened(channels_last=False), "conv", {("fc.weight", 1): wrong}, image(3))
    assert any("keep their order" in finding for finding in findings)


def test_a_channel_moved_to_another_norm_group_is_refused() -> None:
    wrong = np.r_[0, 1, 2, 4, 3, np.arange(5, 12), [-1] * 4]
    names = ["project.weight", "project.bias", "norm.weight", "norm.bias"]
    assert misrouted(GroupedConvs(), "project", {(name, 0): wrong for name in names}, image())


def test_a_permutation_of_all_places_of_a_channel_is_accepted() -> None:
    model, x = SqueezeExcite(), image()
    before = trace(model, example(x))
    group = before.group_of("squeeze")
    maps = {(m.tensor, m.dim): np.array([1, 0]) for m in group.members}
    new = resized(model, group, maps)
    assert torch.allclose(output(new, ((x,), {})), output(model, ((x,), {})), atol=1e-6)
    assert prove(before, trace(new, example(x)), maps) == ()


def test_a_wider_model_output_is_refused() -> None:
    model, x = ResNet(), image()
    before = trace(model, example(x))
    row = np.r_[np.arange(5), -1]
    maps = {("head.weight", 0): row, ("head.bias", 0): row}
    new = resized(model, before.group_of("head"), maps)
    findings = prove(before, trace(new, example(x)), maps)
    assert "head.weight dim 0 [5] was added where channels are pinned (model output)" in findings


def test_permuted_model_outputs_are_refused() -> None:
    model, x = ResNet(), image()
    before = trace(model, example(x))
    maps = {(name, 0): np.array([1, 0, 2, 3, 4]) for name in ("head.weight", "head.bias")}
    new = resized(model, before.group_of("head"), maps)
    assert prove(before, trace(new, example(x)), maps)


def test_a_size_that_no_map_accounts_for_is_a_finding() -> None:
    x = torch.randn(4, 3)
    before = trace(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), example(x))
    after = trace(nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)), example(x))
    findings = prove(before, after, {("0.weight", 0): [0, 1, 2, 3, -1], ("0.bias", 0): [0, 1, 2, 3, -1]})
    assert findings == ("1.weight dim 1 changed from 4 to 5, but has no gather map",)


def test_an_index_taken_twice_is_a_finding() -> None:
    x = torch.randn(4, 3)
    trace_ = trace(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), example(x))
    findings = prove(trace_, trace_, {("0.weight", 0): [0, 1, 1, 3]})
    assert findings == (
        "0.weight dim 0 has a gather map that takes an old index twice; a copy is a new index (-1)",
    )


def test_a_map_may_use_any_name_of_a_tied_tensor() -> None:
    model, x = TiedAutoencoder(), torch.randint(0, 11, (2, 7))
    before = trace(model, example(x))
    group = before.group_of("tokens")
    maps = growth_maps(group)
    after = trace(resized(model, group, maps), example(x))
    renamed = {("output.weight" if n == "tokens.weight" else n, dim): g for (n, dim), g in maps.items()}
    assert prove(before, after, renamed) == ()


def test_a_map_for_an_unknown_tensor_is_an_error() -> None:
    trace_ = trace(nn.Linear(3, 4), example(torch.randn(2, 3)))
    with pytest.raises(UsageError, match="gather map names 'wieght'"):
        prove(trace_, trace_, {("wieght", 0): [0]})


def test_many_findings_are_counted_rather_than_listed() -> None:
    x = torch.randn(4, 3)
    before = trace(nn.Sequential(nn.Linear(3, 64), nn.Linear(64, 2)), example(x))
    reversed_ = {("0.weight", 0): np.arange(64)[::-1]}
    findings = prove(before, before, reversed_)
    assert any("more of this kind" in finding for finding in findings)
    assert len(findings) < 40
