"""Libraries that do a part of the same work, where they are installed."""

from __future__ import annotations

import importlib.util
from typing import Any

from torch import nn

from benchmarks.subjects import Subject

TORCH_PRUNING = "torch_pruning"
GROMO = "gromo"


def missing(package: str) -> str | None:
    """Return why a peer is left out, or None if it is installed."""
    if importlib.util.find_spec(package):
        return None
    install = "--no-deps gromo" if package == GROMO else "esper-es[bench]"
    return f"{package.replace('_', '-')}: not installed (pip install {install})"


def dependency_graph(subject: Subject, model: nn.Module) -> Any:
    """Build Torch-Pruning's graph of which layer depends on which (Fang et al. 2023)."""
    import torch_pruning

    return torch_pruning.DependencyGraph().build_dependency(
        model,
        example_inputs=subject.example,
        output_transform=lambda output: getattr(output, "logits", output),
        verbose=False,
    )


def prune(graph: Any, layer: nn.Module, count: int) -> None:
    """Let Torch-Pruning take the first ``count`` output channels of a layer away."""
    import torch_pruning

    convolution = isinstance(layer, nn.Conv2d)
    take = torch_pruning.prune_conv_out_channels if convolution else torch_pruning.prune_linear_out_channels
    graph.get_pruning_group(layer, take, idxs=list(range(count))).prune()


def growing_mlp(layers: int, width: int) -> Any:
    """Return an MLP of gromo's growing layers (Verbockhaven et al. 2024)."""
    from gromo.containers.growing_mlp import GrowingMLP

    return GrowingMLP(64, 10, width, layers - 1, activation=nn.ReLU())


def grow(model: Any, layer: int, count: int) -> None:
    """Let gromo add ``count`` neurons in front of a layer, drawn at random as this library does."""
    growing = model.layers[layer]
    growing.create_layer_extensions(count, output_extension_init="kaiming", input_extension_init="zeros")
    growing.apply_change(scaling_factor=1.0, apply_delta=False, extension_size=count)
    growing.delete_update()
