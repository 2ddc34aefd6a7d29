"""Description and construction are inverse to each other; only registered kinds are built from data."""

from __future__ import annotations

import pytest
import torch
from models import CustomMLP, nested_cnn, nested_mlp
from torch import nn

from esper_es.domain.errors import ReplayError, UsageError
from esper_es.fingerprints import fingerprint
from esper_es.projections.live.build import build, fragment_of, from_spec, wrapped
from esper_es.projections.live.describe import describe, opaque_classes
from esper_es.projections.live.modules import Bypass, NoOp, Residual, SeedSlot

LAYERS = [
    nn.Linear(3, 4),
    nn.Linear(3, 4, bias=False),
    nn.Conv1d(4, 6, 5, stride=2, padding=2, dilation=2, groups=2, padding_mode="circular"),
    nn.Conv2d(4, 6, (3, 1), padding="same", bias=False),
    nn.Conv3d(2, 2, 3),
    nn.BatchNorm1d(3),
    nn.BatchNorm2d(3, affine=False),
    nn.BatchNorm3d(3, track_running_stats=False, momentum=None),
    nn.LayerNorm((3, 4), eps=1e-3),
    nn.LayerNorm(4, bias=False),
    nn.LayerNorm(4, elementwise_affine=False),
    nn.RMSNorm(4),
    nn.GroupNorm(2, 4, affine=False),
    nn.Embedding(10, 4, padding_idx=0, max_norm=0.5, norm_type=1.0, scale_grad_by_freq=True, sparse=True),
    nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True),
    nn.MultiheadAttention(8, 2, bias=False, add_zero_attn=True),
    nn.ReLU(inplace=True),
    nn.LeakyReLU(0.2),
    nn.GELU(approximate="tanh"),
    nn.Softmax(dim=-1),
    nn.Dropout(0.3),
    nn.Flatten(1, 2),
    nn.Unflatten(1, (2, 3)),
    nn.MaxPool2d(2, stride=1, padding=1),
    nn.AvgPool1d(3, ceil_mode=True, count_include_pad=False),
    nn.AvgPool2d(2, divisor_override=3),
    nn.MaxPool1d(3, dilation=2, return_indices=True, ceil_mode=True),
    nn.AdaptiveAvgPool2d((None, 2)),
    nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=True, recompute_scale_factor=True),
    nn.Sequential(nn.Linear(2, 2), nn.ModuleList([nn.ReLU()]), nn.ModuleDict({"a": nn.Tanh()})),
    Residual(nn.Linear(3, 3)),
    Bypass((1, "x"), {"tuple": ["stream", None]}, {"kind": {"value": "full"}}),
    NoOp(),
    SeedSlot("blending"),
    nn.Linear(3, 4, dtype=torch.float64),
    nn.Conv2d(2, 2, 1, dtype=torch.bfloat16),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_a_layer_built_from_its_description_has_the_same_description(layer: nn.Module) -> None:
    assert describe(build(describe(layer), seed=0)).fingerprint == describe(layer).fingerprint


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_a_layer_built_from_its_description_has_all_attributes_of_the_first(layer: nn.Module) -> None:
    built = build(describe(layer), seed=0)
    for one, other in zip(layer.modules(), built.modules(), strict=True):
        hidden = ("_parameters", "_buffers", "_modules")
        found, wanted = ({k: v for k, v in part.__dict__.items() if k not in hidden} for part in (other, one))
        assert found == wanted


@pytest.mark.parametrize("build_model", [nested_mlp, nested_cnn], ids=lambda f: f.__name__)
def test_a_model_of_known_layers_can_be_built_from_its_description(build_model) -> None:  # type: ignore[no-untyped-def]
    model = build_model()
    built = build(describe(model), seed=0)
    built.load_state_dict(model.state_dict())
    assert fingerprint(built) == fingerprint(model)


def test_the_seed_alone_decides_the_bytes() -> None:
    description = describe(nested_mlp())
    torch.manual_seed(1)
    first = fingerprint(build(description, seed=3))
    torch.manual_seed(2)
    assert fingerprint(build(description, seed=3)) == first
    assert fingerprint(build(description, seed=4)) != first


def test_building_draws_no_ambient_random_numbers() -> None:
    description = describe(nested_mlp())
    before = torch.get_rng_state()
    build(description, seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_default_dtype_of_the_process_does_not_matter() -> None:
    description = describe(nested_mlp())
    torch.set_default_dtype(torch.float64)
    try:
        built = build(description, seed=0)
    finally:
        torch.set_default_dtype(torch.float32)
    assert describe(built).fingerprint == description.fingerprint


def test_tied_tensors_are_built_tied() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    built = build(describe(model), seed=0)
    assert built.get_parameter("0.weight") is built.get_parameter("1.weight")


def test_a_class_of_ones_own_is_described_but_never_built() -> None:
    description = describe(CustomMLP())
    assert opaque_classes(description) == ("CustomMLP",)
    with pytest.raises(ReplayError, match="CustomMLP are described by no registered layer kind"):
        build(description, seed=0)


def test_a_shared_module_needs_a_blueprint() -> None:
    shared = nn.Linear(3, 3)
    with pytest.raises(ReplayError, match="shares the module '0'"):
        build(describe(nn.Sequential(shared, shared)), seed=0)


def test_a_spec_is_filled_in_with_defaults() -> None:
    layer = from_spec({"type": "conv2d", "in_channels": 2, "out_channels": 3}, seed=0)
    assert isinstance(layer, nn.Conv2d)
    assert (layer.kernel_size, layer.padding) == ((3, 3), (1, 1))


def test_the_plans_attention_has_eight_heads_by_default() -> None:
    layer = from_spec({"type": "attention", "embed_dim": 16}, seed=0)
    assert isinstance(layer, nn.MultiheadAttention)
    assert layer.num_heads == 8


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"in_features": 3}, "a mapping with a 'type'"),
        ({"type": "warp"}, "unknown layer kind 'warp'"),
        ({"type": "linear", "in_features": 3}, "is wrong"),
        ({"type": "linear", "in_features": 3, "out_features": 3, "depth": 1}, "not"),
        ({"type": "conv2d", "in_channels": 3, "out_channels": 4, "groups": 2}, "is wrong"),
    ],
)
def test_a_wrong_spec_is_named(spec: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        from_spec(spec, seed=0)


def test_a_wrapped_fragment_describes_the_wrapped_module() -> None:
    body = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    assert (
        wrapped("residual", {}, "body", fragment_of(body)).fingerprint == describe(Residual(body)).fingerprint
    )


def test_bytes_modes_and_flags_are_no_part_of_the_architecture() -> None:
    model = nested_cnn()
    before = describe(model).fingerprint
    model.eval().requires_grad_(False)
    with torch.no_grad():
        model.get_parameter("0.weight").zero_()
    assert describe(model).fingerprint == before


def test_names_order_shapes_and_buffers_are() -> None:
    def variants() -> list[nn.Module]:
        renamed = nn.Sequential()
        renamed.add_module("a", nn.Linear(3, 3))
        buffered = nn.Sequential(nn.Linear(3, 3))
        buffered.register_buffer("extra", torch.zeros(2))
        transient = nn.Sequential(nn.Linear(3, 3))
        transient.register_buffer("extra", torch.zeros(2), persistent=False)
        return [nn.Sequential(nn.Linear(3, 3)), nn.Sequential(nn.Linear(3, 4)), renamed, buffered, transient]

    assert len({describe(model).fingerprint for model in variants()}) == 5
