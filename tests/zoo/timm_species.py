"""Models of ``timm``, made by ``create_model``, with random weights."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from esper_es import blueprint

from .species import Species, conv, images, linear
from .timm_alone import import_timm

timm = import_timm()


def resnet() -> nn.Module:
    return timm.create_model(
        "resnet18", layers=(2, 1, 1, 1), channels=(8, 12, 16, 20), stem_width=6, num_classes=5
    )


def convnext() -> nn.Module:
    return timm.create_model("convnext_atto", depths=(2, 1, 1, 1), dims=(8, 12, 16, 20), num_classes=5)


def efficientnet() -> nn.Module:
    """Depthwise convolutions under squeeze-and-excitation."""
    return timm.create_model("test_efficientnet", num_classes=5)


def densenet() -> nn.Module:
    """Every layer reads the concatenated outputs of all before it."""
    return timm.create_model("densenet121", growth_rate=4, block_config=(2, 2), num_classes=5)


def vit() -> nn.Module:
    """One packed weight for queries, keys and values; a class token and learned positions."""
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5
    )


def swin() -> nn.Module:
    """Windows that are rolled and cut, relative position tables, patches merged by strided slices."""
    return timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=32,
        patch_size=2,
        window_size=4,
        embed_dim=12,
        depths=(2, 2),
        num_heads=(3, 4),
        num_classes=5,
    )


@blueprint("zoo-mixer")
def mixer() -> nn.Module:
    """Tokens and channels change places; its sizes are no arguments of ``create_model``."""
    return timm.models.MlpMixer(
        img_size=32, patch_size=8, embed_dim=24, num_blocks=2, mlp_ratio=(0.5, 2.0), num_classes=5
    )


@blueprint("zoo-levit")
def levit() -> nn.Module:
    """Position biases that are computed once in evaluation, and kept."""
    return timm.models.levit.Levit(
        img_size=64,
        embed_dim=(24, 32),
        num_heads=(2, 3),
        depth=(1, 1),
        key_dim=8,
        attn_ratio=2,
        mlp_ratio=2,
        num_classes=5,
    )


def large_images() -> tuple[torch.Tensor]:
    return images(64)


TIMM = (
    Species("timm ResNet", resnet, large_images, ("layer1.0", conv(8)), "layer1.1", ("layer1.0", "layer1.1")),
    Species(
        "timm ConvNeXt",
        convnext,
        large_images,
        ("stages.0.blocks.0", conv(8)),
        "stages.0.blocks.1",
        ("stages.0.blocks.0", "stages.0.blocks.1"),
    ),
    Species(
        "timm EfficientNet",
        efficientnet,
        large_images,
        ("conv_stem", conv(24)),
        "blocks.2.0",
        ("conv_stem", "blocks.1.0"),
    ),
    Species(
        "timm DenseNet",
        densenet,
        large_images,
        ("features.denseblock1.denselayer1.conv2", conv(4)),
        "features.denseblock2.denselayer2.conv1",
        ("features.denseblock1.denselayer1.conv2", "features.denseblock1.denselayer2.conv2"),
    ),
    Species(
        "timm ViT",
        vit,
        partial(images, 32),
        ("blocks.0.mlp", linear(24)),
        "blocks.1",
        ("blocks.0", "blocks.1"),
    ),
    Species(
        "timm Swin",
        swin,
        partial(images, 32),
        ("layers.0.blocks.0.mlp", linear(12)),
        "layers.0.blocks.1",
        ("layers.0.blocks.0", "layers.0.blocks.1"),
    ),
    Species(
        "timm Mixer",
        mixer,
        partial(images, 32),
        ("blocks.0.mlp_channels", linear(24)),
        "blocks.1",
        ("blocks.0", "blocks.1"),
        blueprint="zoo-mixer",
    ),
    Species(
        "timm LeViT",
        levit,
        large_images,
        ("stages.0.blocks.0.mlp", linear(24)),
        "stages.1.blocks.0",
        ("stages.0.blocks.0.attn", "stages.0.blocks.0.mlp"),
        blueprint="zoo-levit",
    ),
)
