from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_es.domain.errors import UsageError
from esper_es.tracing import Trace, WidthGroup, trace

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


def traced(model: nn.Module, *args: Any) -> Trace:
    return trace(model, example(*args))


def places(group: WidthGroup, role: str | None = None) -> set[tuple[str, int]]:
    return {(m.tensor, m.dim) for m in group.members if role in (None, m.role)}


def positions(group: WidthGroup, tensor: str, dim: int) -> list[int]:
    member = group.member(tensor, dim)
    assert member is not None
    return member.positions.tolist()


def test_a_nested_sequential_links_each_layer_to_its_norm_and_to_the_next_layer() -> None:
    model = nn.Sequential(
        nn.Sequential(nn.Conv1d(3, 6, 3, padding=1), nn.BatchNorm1d(6), nn.ReLU()),
        nn.Sequential(nn.Dropout(0.5), nn.Conv1d(6, 4, 1)),
    )
    group = traced(model, torch.randn(2, 3, 8)).group_of("0.0")
    assert places(group, "producer") == {("0.0.weight", 0), ("0.0.bias", 0)}
    assert places(group, "affine") == {("0.1.weight", 0), ("0.1.bias", 0)}
    assert places(group, "statistic") == {("0.1.running_mean", 0), ("0.1.running_var", 0)}
    assert places(group, "consumer") == {("1.1.weight", 1)}


def test_members_name_the_module_that_owns_them() -> None:
    group = traced(ResNet(), image()).group_of("blocks.2.downsample.0")
    assert {m.module for m in group.members if m.role == "statistic"} == {
        "blocks.2.bn2",
        "blocks.2.downsample.1",
        "blocks.3.bn2",
    }


def test_a_residual_stream_is_one_group_through_identity_and_downsample_shortcuts() -> None:
    trace_ = traced(ResNet(), image())
    producers = places(trace_.group_of("blocks.3.conv2"), "producer")
    assert producers == {(f"blocks.{n}.weight", 0) for n in ("2.conv2", "2.downsample.0", "3.conv2")}


def test_channels_inside_a_residual_block_stay_its_own() -> None:
    group = traced(ResNet(), image()).group_of("blocks.3.conv1")
    assert places(group, "consumer") == {("blocks.3.conv2.weight", 1)}


def test_a_concatenation_gives_each_part_its_segment_of_the_columns() -> None:
    trace_ = traced(UNet(), image(8))
    assert positions(trace_.group_of("up"), "merge.weight", 1) == [0, 1, 2, 3] + [-1] * 6
    assert positions(trace_.group_of("enter"), "merge.weight", 1) == [-1] * 4 + [0, 1, 2, 3, 4, 5]


def test_a_channel_major_flatten_gives_each_channel_a_block_of_columns() -> None:
    group = traced(Flattened(channels_last=False), image(3)).group_of("conv")
    assert positions(group, "fc.weight", 1) == [channel for channel in range(4) for _ in range(9)]


def test_a_position_major_flatten_gives_each_channel_a_column_at_every_position() -> None:
    group = traced(Flattened(channels_last=True), image(3)).group_of("conv")
    assert positions(group, "fc.weight", 1) == [0, 1, 2, 3] * 9


def test_an_unflatten_gives_each_channel_a_block_of_rows() -> None:
    group = traced(Generator(), torch.randn(4, 5)).group_of("bn")
    assert positions(group, "fc.weight", 0) == [channel for channel in range(4) for _ in range(9)]


def test_depthwise_convolutions_keep_single_channels_as_units() -> None:
    group = traced(GroupedConvs(), image()).group_of("expand")
    assert (group.units, group.unit_size) == (8, 1)
    assert ("depthwise.weight", 0) in places(group)


def test_norm_groups_and_convolution_groups_are_units() -> None:
    group = traced(GroupedConvs(), image()).group_of("project")
    assert (group.units, group.unit_size, group.size) == (3, 4, 12)
    assert positions(group, "grouped.weight", 0) == [0, 0, 1, 1, 2, 2]


def test_the_channels_per_group_of_a_grouped_convolution_are_pinned() -> None:
    group = traced(GroupedConvs(), image()).group_of("grouped", dim=1)
    assert [pin.reason for pin in group.pins] == ["counts the channels of one group of aten.convolution"]


def test_the_filters_of_a_grouped_convolution_of_the_model_input_are_pinned() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(6, 2, 1))
    group = traced(model, image()).group_of("0")
    assert not group.free


def test_a_transposed_grouped_convolution_bundles_both_sides_of_a_group() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 6, 2, groups=2), nn.Conv2d(6, 2, 1))
    group = traced(model, image()).group_of("0")
    assert positions(group, "1.bias", 0) == [0, 0, 0, 1, 1, 1]


def test_a_gate_and_what_it_gates_are_the_same_channels() -> None:
    group = traced(SqueezeExcite(), image()).group_of("excite")
    assert places(group) == {
        ("enter.weight", 0),
        ("enter.bias", 0),
        ("excite.weight", 0),
        ("excite.bias", 0),
        ("squeeze.weight", 1),
        ("leave.weight", 1),
    }


def test_a_tied_tensor_is_one_member_under_its_first_name() -> None:
    trace_ = traced(TiedAutoencoder(), torch.randint(0, 11, (2, 7)))
    assert trace_.group_of("output", dim=1).member("tokens.weight", 1) is not None
    assert next(t for t in trace_.tensors if t.name == "tokens.weight").names == (
        "tokens.weight",
        "output.weight",
    )


def test_a_tied_dimension_that_produces_and_consumes_counts_as_consumer() -> None:
    group = traced(TiedAutoencoder(), torch.randint(0, 11, (2, 7))).group_of("tokens")
    member = group.member("tokens.weight", 1)
    assert member is not None
    assert (member.role, member.roles) == ("consumer", ("consumer", "producer"))


def test_a_module_called_twice_links_its_rows_to_its_own_columns() -> None:
    group = traced(SharedTwice(), torch.randn(4, 3)).group_of("shared")
    assert {("shared.weight", 0), ("shared.weight", 1), ("enter.weight", 0)} <= places(group)


def test_a_head_is_a_unit_of_rows_and_output_columns() -> None:
    group = traced(Attention(), sequence()).group_of("v")
    assert (group.units, group.unit_size) == (3, 4)
    assert positions(group, "o.weight", 1) == [0] * 4 + [1] * 4 + [2] * 4


def test_a_rotary_table_fixes_the_inside_of_a_head_but_not_the_number_of_heads() -> None:
    group = traced(Attention(rotary=True), sequence()).group_of("q")
    assert group.free
    assert group.units == 3


def test_packed_queries_keys_and_values_hold_each_head_three_times() -> None:
    group = traced(PackedAttention(), sequence()).group_of("qkv")
    assert positions(group, "qkv.weight", 0) == 3 * ([0] * 4 + [1] * 4 + [2] * 4)


def test_a_key_head_is_a_unit_with_all_its_query_heads() -> None:
    group = traced(GroupedQueries(), sequence()).group_of("k")
    assert group.units == 2
    assert positions(group, "q.weight", 0) == [0] * 8 + [1] * 8


def test_the_halves_of_a_chunk_are_one_unit() -> None:
    group = traced(Chunked(), image()).group_of("enter")
    assert positions(group, "enter.weight", 0) == [0, 1, 2, 3] * 2
    assert positions(group, "leave.weight", 1) == [0, 1, 2, 3] * 2 + [-1] * 8


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3)])
def test_the_gates_of_a_recurrent_unit_come_together(kind: type[nn.RNNBase], gates: int) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = kind(5, 6, batch_first=True)
            self.leave = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.leave(self.cell(x)[0])

    group = traced(Recurrent(), sequence()).group_of("cell.weight_ih_l0")
    assert (group.free, group.units, group.unit_size) == (True, 6, gates)
    assert positions(group, "cell.weight_hh_l0", 1) == list(range(6))


@pytest.mark.parametrize(
    ("norm", "op"),
    [
        (nn.LayerNorm(6), "aten.native_layer_norm"),
        (nn.GroupNorm(1, 6), "aten.native_group_norm"),
        (nn.Softmax(dim=1), "aten._softmax"),
    ],
)
def test_what_mixes_all_channels_marks_the_group_as_reduced_over(norm: nn.Module, op: str) -> None:
    model = nn.Sequential(nn.Linear(3, 6), norm, nn.Linear(6, 2))
    group = traced(model, torch.randn(4, 3)).group_of("0")
    assert [(r.op, r.module) for r in group.reduced_by] == [(op, "1")]
    assert group.free


def test_a_mean_over_channels_marks_the_group_as_reduced_over() -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 6)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.fc(x)).mean(dim=-1)

    group = traced(Mean(), torch.randn(4, 3)).group_of("fc")
    assert [r.op for r in group.reduced_by] == ["aten.mean"]


def test_a_norm_over_the_inside_of_each_head_bundles_heads_and_reduces_nothing() -> None:
    class PerHead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 8)
            self.leave = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            heads = F.normalize(self.fc(x).view(len(x), -1, 4), dim=-1)
            return self.leave(heads.flatten(1))

    group = traced(PerHead(), torch.randn(4, 3)).group_of("fc")
    assert (group.free, group.units, group.unit_size, group.reduced_by) == (True, 2, 4, ())


def test_a_parametrized_weight_answers_to_the_path_of_its_layer() -> None:
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 6, 3)), nn.ReLU(), nn.Conv2d(6, 2, 1)
    )
    group = traced(model, image()).group_of("0")
    assert {"0.bias", "2.weight"} <= {m.tensor for m in group.members}
    assert {m.dim for m in group.members if "original" in m.tensor} == {0}


def test_every_produced_channel_is_in_exactly_one_width_group() -> None:
    trace_ = traced(UNet(), image(8))
    tensors = [(group.tensor, group.dim) for group in trace_.width_groups]
    assert tensors == [
        ("enter.weight", 0),
        ("down.weight", 0),
        ("up.weight", 1),
        ("merge.weight", 0),
        ("leave.weight", 0),
    ]


class Halves(nn.Module):
    """One layer makes what two others read."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(3, 6)
        self.left = nn.Linear(2, 2)
        self.right = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.both(x).split([2, 4], dim=-1)
        return self.left(left) + self.right(right)


def test_units_of_several_kinds_in_one_layer_are_counted_as_families() -> None:
    group = traced(Halves(), torch.randn(5, 3)).group_of("both")
    assert group.families == 2


def test_a_network_of_constants_that_makes_a_bias_has_a_side_that_reads() -> None:
    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.leave = nn.Linear(3, 2)
            self.inner, self.outer = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            bias = self.outer(self.inner(torch.eye(4)).relu()).sum(0)
            return self.leave(x.tanh() + bias)

    group = traced(Biased(), torch.randn(5, 3)).group_of("inner")
    member = group.member("outer.weight", 1)
    assert member is not None
    assert member.role == "consumer"


def test_units_that_one_layer_makes_with_others_form_a_group_by_what_reads_them() -> None:
    groups = traced(Halves(), torch.randn(5, 3)).width_groups
    assert {(group.tensor, group.dim, group.units) for group in groups if group.free} == {
        ("left.weight", 1, 2),
        ("right.weight", 1, 4),
    }


def test_an_unknown_layer_is_an_error_that_names_near_ones() -> None:
    with pytest.raises(UsageError, match=r"'blocks.0.conv3' is no layer .* blocks.0.conv"):
        traced(ResNet(), image()).group_of("blocks.0.conv3")


def test_a_layer_of_several_equal_tensors_asks_for_a_name() -> None:
    model = nn.LSTM(5, 6)
    with pytest.raises(UsageError, match="name the one that is meant"):
        traced(model, sequence()).group_of("")


def test_an_explanation_names_members_reductions_and_pins() -> None:
    model = nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.Linear(6, 2))
    trace_ = traced(model, torch.randn(4, 3))
    assert trace_.explain("0").lines() == [
        "0.weight dim 0: 6 channels, 6 units",
        "  producer  0.weight dim 0  all 6",
        "  producer  0.bias   dim 0  all 6",
        "  affine    1.weight dim 0  all 6",
        "  affine    1.bias   dim 0  all 6",
        "  consumer  2.weight dim 1  all 6",
        "  reduced over by aten.native_layer_norm in 1",
        "  free to grow and shrink",
    ]
    assert "  pinned: 2.weight dim 0 model output" in trace_.explain("2").lines()


def test_a_standardised_weight_is_reduced_over_its_inputs() -> None:
    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            weight = F.batch_norm(self.weight.flatten(1)[None], None, None, training=True).view_as(
                self.weight
            )
            return F.conv2d(x, weight, self.bias)

    model = nn.Sequential(nn.Conv2d(3, 6, 1), Standardised(6, 5, 3), nn.Conv2d(5, 2, 1))
    found = traced(model, torch.randn(2, 3, 8, 8))
    assert [r.module for r in found.group_of("0").reduced_by] == ["1"]
    assert not found.group_of("1").reduced_by


def test_channels_are_followed_through_packed_sequences() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.lstm, self.leave = (
                nn.Linear(3, 6),
                nn.LSTM(6, 5, batch_first=True),
                nn.Linear(5, 2),
            )

        def forward(self, x: Tensor) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(self.enter(x), torch.tensor([4, 2]), batch_first=True)
            return self.leave(self.lstm(packed)[1][0][-1])

    group = traced(Packed(), torch.randn(2, 4, 3)).group_of("enter")
    assert (group.free, group.member("lstm.weight_ih_l0", 1) is not None) == (True, True)


def test_kinds_that_only_a_reader_holds_alone_have_groups_of_their_own() -> None:
    class Parts(nn.Module):
        """One layer makes what two others read."""

        def __init__(self) -> None:
            super().__init__()
            self.enter, self.one, self.two = nn.Linear(3, 7), nn.Linear(4, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            left, right = self.enter(x).split([4, 3], -1)
            return self.one(left).relu() + self.two(right)

    found = traced(Parts(), torch.randn(2, 3))
    free = [(group.tensor, group.dim, group.units) for group in found.width_groups if group.free]
    assert free == [("one.weight", 1, 4), ("two.weight", 1, 3)]


class TwoKindsOfHeads(nn.Module):
    """Heads of attention beside heads of a plain layer, all of four channels."""

    def __init__(self, side_by_side: bool) -> None:
        super().__init__()
        self.packed, self.plain = nn.Linear(3, 24), nn.Linear(3, 12)
        self.leave = nn.Linear(20, 2)
        self.side_by_side = side_by_side

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.packed(x).view(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        attended = ((q @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2)
        plain = self.plain(x).view(*x.shape[:2], 3, 4)
        plain = plain * plain.norm(dim=-1, keepdim=True) if self.side_by_side else plain
        return self.leave(torch.cat([attended, plain], 2).flatten(2))


def test_heads_beside_other_heads_come_and_go_by_themselves() -> None:
    found = traced(TwoKindsOfHeads(side_by_side=True), torch.randn(2, 5, 3))
    assert [found.group_of(layer).units for layer in ("packed", "plain")] == [2, 3]


def test_channels_beside_heads_that_are_no_heads_bind_all_of_them() -> None:
    found = traced(TwoKindsOfHeads(side_by_side=False), torch.randn(2, 5, 3))
    assert found.group_of("packed").member("plain.weight", 0) is not None
