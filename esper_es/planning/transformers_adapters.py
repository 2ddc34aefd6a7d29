"""Adapters of layers of ``transformers``, named so that the library need not be installed."""

from __future__ import annotations

from typing import Any

from esper_es.planning.width_adapters import Changes, LocalDim, WidthRepair, sized, width_adapter


@width_adapter("transformers.pytorch_utils.Conv1D")
def conv1d(module: Any, changes: Changes) -> WidthRepair:
    """A linear layer whose weight is ``(in, out)``."""
    return sized(changes, {("weight", 0): "nx", ("weight", 1): "nf"})


@width_adapter(
    "transformers.models.t5.modeling_t5.T5Attention",
    "transformers.models.mt5.modeling_mt5.MT5Attention",
    "transformers.models.longt5.modeling_longt5.LongT5Attention",
    "transformers.models.umt5.modeling_umt5.UMT5Attention",
)
def t5_attention(module: Any, changes: Changes) -> WidthRepair:
    """Heads have ``key_value_proj_dim`` rows each; the bias table that the first layer shares has one column a head."""
    attributes = dict(sized(changes, {("q.weight", 0): "inner_dim", ("q.weight", 1): "d_model"}).attributes)
    if ("q.weight", 0) in changes:
        attributes["n_heads"] = changes["q.weight", 0].new // int(module.key_value_proj_dim)
    return WidthRepair(attributes)


@width_adapter(
    "transformers.models.t5.modeling_t5.T5Stack",
    "transformers.models.mt5.modeling_mt5.MT5Stack",
    "transformers.models.longt5.modeling_longt5.LongT5Stack",
    "transformers.models.switch_transformers.modeling_switch_transformers.SwitchTransformersStack",
)
def t5_stack(module: Any, changes: Changes) -> WidthRepair:
    """The first layer's position bias goes to all, that of cross-attention too: one number of heads for each kind."""
    sizes: dict[LocalDim, int] = {}
    for kind in ("layer.0.SelfAttention", "layer.1.EncDecAttention"):
        queries = [f"block.{number}.{kind}.q.weight" for number in range(len(module.block))]
        change = next((changes[query, 0] for query in queries if (query, 0) in changes), None)
        if change is not None:
            sizes |= {(query, 0): change.new for query in queries}
    return WidthRepair({}, sizes)
