"""Layer kinds: how a module of a known class is read into a config, and built from one again.

A log names kinds, never Python classes: only what is registered here can be built from data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from esper_es.domain.canonical import Json
from esper_es.domain.errors import UsageError
from esper_es.domain.whole_numbers import whole
from esper_es.projections.live.hosting import original_class

Reader = Callable[[Any], Json]


@frozen
class LayerKind:
    """A registered class of modules.

    Attributes:
        name: stable name in the log.
        cls: exact class; subclasses are other kinds.
        readers: how to read each config entry from a module.
        build: makes a module from a config (children excepted).
        defaults: config entries that a layer spec may leave out.
    """

    name: str
    cls: type[nn.Module]
    readers: Mapping[str, Reader]
    build: Callable[[Mapping[str, Json]], nn.Module]
    defaults: Mapping[str, Json]

    def read(self, module: nn.Module) -> dict[str, Json]:
        """Return the config of a module of this kind."""
        return {name: plain(reader(module)) for name, reader in self.readers.items()}


_BY_NAME: dict[str, LayerKind] = {}
_BY_CLASS: dict[type[nn.Module], LayerKind] = {}


def register(kind: LayerKind) -> LayerKind:
    """Add a kind.

    Raises:
        UsageError: if its name or class is taken.
    """
    if kind.name in _BY_NAME or kind.cls in _BY_CLASS:
        raise UsageError(f"layer kind {kind.name!r} or class {kind.cls.__name__} is registered already")
    _BY_NAME[kind.name] = kind
    _BY_CLASS[kind.cls] = kind
    return kind


def layer_kind(name: str, cls: type[nn.Module], *attributes: str, **defaults: Json) -> LayerKind:
    """Register a class whose constructor arguments are readable as attributes of the same names.

    Args:
        name: stable name in the log.
        cls: the class.
        *attributes: constructor arguments. ``bias`` is read as whether there is a bias.
        **defaults: values for layer specs that leave an argument out.
    """
    readers = {attribute: _reader(attribute) for attribute in attributes}

    def build(config: Mapping[str, Json]) -> nn.Module:
        return cls(**{key: tupled(value) for key, value in config.items()})

    return register(LayerKind(name, cls, readers, build, defaults))


def _reader(attribute: str) -> Reader:
    if attribute == "bias":
        return lambda module: getattr(module, "bias", None) is not None
    return lambda module: getattr(module, attribute)


def kind_named(name: str) -> LayerKind:
    """Return a registered kind.

    Raises:
        UsageError: if the name is unknown.
    """
    if name not in _BY_NAME:
        raise UsageError(f"unknown layer kind {name!r}; register it with esper_es.layer_kind. {_known()}")
    return _BY_NAME[name]


def kind_of(module: nn.Module) -> LayerKind | None:
    """Return the kind of a module by its exact class, or None for user code."""
    return _BY_CLASS.get(original_class(module))


def _known() -> str:
    return f"Known kinds: {', '.join(sorted(_BY_NAME))}"


def plain(value: Any) -> Json:
    """Turn tuples into lists, all the way down, as JSON does, and whatever stands for a whole number into one."""
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if type(value) in _OF_JSON else whole(value)


_OF_JSON = frozenset((int, float, str, bool, type(None)))


def tupled(value: Json) -> Any:
    """Turn lists into tuples, as torch's layers keep them."""
    return tuple(tupled(item) for item in value) if isinstance(value, list) else value


def _register_torch_layers() -> None:
    layer_kind("linear", nn.Linear, "in_features", "out_features", "bias", bias=True)
    conv = (
        "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "bias",
        "padding_mode",
    )  # fmt: skip
    layer_kind("conv1d", nn.Conv1d, *conv, kernel_size=3, padding=1)
    layer_kind("conv2d", nn.Conv2d, *conv, kernel_size=3, padding=1)
    layer_kind("conv3d", nn.Conv3d, *conv, kernel_size=3, padding=1)
    batch = ("num_features", "eps", "momentum", "affine", "track_running_stats")
    layer_kind("batchnorm1d", nn.BatchNorm1d, *batch)
    layer_kind("batchnorm2d", nn.BatchNorm2d, *batch)
    layer_kind("batchnorm3d", nn.BatchNorm3d, *batch)
    register(
        LayerKind(
            "layernorm",
            nn.LayerNorm,
            {
                "normalized_shape": lambda m: m.normalized_shape,
                "eps": lambda m: m.eps,
                "elementwise_affine": lambda m: m.elementwise_affine,
                "bias": lambda m: m.bias is not None,
            },
            lambda c: nn.LayerNorm(
                tupled(c["normalized_shape"]), c["eps"], c["elementwise_affine"], bias=c["bias"]
            ),
            {"eps": 1e-5, "elementwise_affine": True, "bias": True},
        )
    )
    layer_kind("rmsnorm", nn.RMSNorm, "normalized_shape", "eps", "elementwise_affine")
    layer_kind("groupnorm", nn.GroupNorm, "num_groups", "num_channels", "eps", "affine")
    layer_kind(
        "embedding", nn.Embedding, "num_embeddings", "embedding_dim", "padding_idx", "max_norm", "norm_type",
        "scale_grad_by_freq", "sparse",
    )  # fmt: skip
    register(
        LayerKind(
            "attention",
            nn.MultiheadAttention,
            {
                "embed_dim": lambda m: m.embed_dim,
                "num_heads": lambda m: m.num_heads,
                "dropout": lambda m: m.dropout,
                "bias": lambda m: m.in_proj_bias is not None,
                "add_zero_attn": lambda m: m.add_zero_attn,
                "batch_first": lambda m: m.batch_first,
            },
            lambda c: nn.MultiheadAttention(**c),
            {"num_heads": 8, "dropout": 0.0, "bias": True, "add_zero_attn": False, "batch_first": False},
        )
    )
    layer_kind("attention_output", NonDynamicallyQuantizableLinear, "in_features", "out_features", "bias")
    layer_kind("relu", nn.ReLU, "inplace", inplace=False)
    layer_kind("relu6", nn.ReLU6, "inplace", inplace=False)
    layer_kind("silu", nn.SiLU, "inplace", inplace=False)
    layer_kind("hardswish", nn.Hardswish, "inplace", inplace=False)
    layer_kind("tanh", nn.Tanh)
    layer_kind("sigmoid", nn.Sigmoid)
    layer_kind("softsign", nn.Softsign)
    layer_kind("identity", nn.Identity)
    layer_kind("leaky_relu", nn.LeakyReLU, "negative_slope", "inplace")
    layer_kind("elu", nn.ELU, "alpha", "inplace")
    layer_kind("gelu", nn.GELU, "approximate")
    layer_kind("softmax", nn.Softmax, "dim")
    layer_kind("log_softmax", nn.LogSoftmax, "dim")
    layer_kind("dropout", nn.Dropout, "p", "inplace")
    layer_kind("dropout2d", nn.Dropout2d, "p", "inplace")
    layer_kind("flatten", nn.Flatten, "start_dim", "end_dim")
    layer_kind("unflatten", nn.Unflatten, "dim", "unflattened_size")
    pool = ("kernel_size", "stride", "padding", "dilation", "return_indices", "ceil_mode")
    layer_kind("max_pool1d", nn.MaxPool1d, *pool)
    layer_kind("max_pool2d", nn.MaxPool2d, *pool)
    layer_kind(
        "avg_pool1d", nn.AvgPool1d, "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad"
    )
    layer_kind(
        "avg_pool2d", nn.AvgPool2d, "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad",
        "divisor_override",
    )  # fmt: skip
    layer_kind("adaptive_avg_pool1d", nn.AdaptiveAvgPool1d, "output_size")
    layer_kind("adaptive_avg_pool2d", nn.AdaptiveAvgPool2d, "output_size")
    layer_kind("adaptive_max_pool2d", nn.AdaptiveMaxPool2d, "output_size", "return_indices")
    layer_kind(
        "upsample", nn.Upsample, "size", "scale_factor", "mode", "align_corners", "recompute_scale_factor"
    )
    layer_kind("sequential", nn.Sequential)
    layer_kind("module_list", nn.ModuleList)
    layer_kind("module_dict", nn.ModuleDict)


_register_torch_layers()
