"""Adapters of layers of ``transformers``, named so that the library need not be installed."""

from __future__ import annotations

from typing import Any

from esper_es.domain.errors import Refused
from esper_es.planning.attributes.width_adapters import Changes, LocalDim, WidthRepair, sized, width_adapter


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
    """Heads have ``key_value_proj_dim`` rows each; the bias table that the first layer shares has one column a head.

    Of a single head the rows may be units by themselves.
    """
    attributes = dict(sized(changes, {("q.weight", 0): "inner_dim", ("q.weight", 1): "d_model"}).attributes)
    heads = changes.get(("q.weight", 0))
    if heads is not None and not heads.old_head and heads.old_units == int(module.n_heads):
        attributes["n_heads"] = heads.new_units
    elif heads is not None:
        attributes["key_value_proj_dim"] = heads.new // int(module.n_heads)
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
        if change is not None and not change.old_head:
            sizes |= {(query, 0): change.new for query in queries}
    return WidthRepair({}, sizes)


@width_adapter("transformers.models.phi3.modeling_phi3.Phi3Attention")
def phi3_attention(module: Any, changes: Changes) -> WidthRepair:
    """Queries, keys and values are packed; a unit is a head of keys and values with the heads of queries that it
    serves."""
    packed = changes.get(("qkv_proj.weight", 0))
    if packed is None:
        return WidthRepair()
    if packed.old_head:
        return WidthRepair({"head_dim": packed.new_head})
    return WidthRepair(
        {"num_key_value_heads": int(module.num_key_value_heads) * packed.new_units // packed.old_units}
    )


@width_adapter("transformers.models.phi3.modeling_phi3.Phi3Model")
def phi3_model(module: Any, changes: Changes) -> WidthRepair:
    """Every layer cuts its packed projection where the model's one configuration says: all have as many heads."""
    packed = [f"layers.{number}.self_attn.qkv_proj.weight" for number in range(len(module.layers))]
    change = next((changes[name, 0] for name in packed if (name, 0) in changes), None)
    if change is None or change.old_head:
        return WidthRepair()
    heads = int(module.config.num_attention_heads) * change.new_units // change.old_units
    return WidthRepair({"config.num_attention_heads": heads}, {(name, 0): change.new for name in packed})


@width_adapter(
    "transformers.models.pvt.modeling_pvt.PvtEfficientSelfAttention",
    "transformers.models.glpn.modeling_glpn.GLPNEfficientSelfAttention",
)
def reduced_attention(module: Any, changes: Changes) -> WidthRepair:
    """Keys and values are made from a convolution of the stream, whose result is reshaped to the stream's width."""
    attributes = dict(
        sized(changes, {("query.weight", 0): "all_head_size", ("query.weight", 1): "hidden_size"}).attributes
    )
    heads = changes.get(("query.weight", 0))
    if heads is not None and heads.old_head:
        attributes["attention_head_size"] = heads.new_head
    elif heads is not None:
        attributes["num_attention_heads"] = heads.new // int(module.attention_head_size)
    reduction = "sequence_reduction" if hasattr(module, "sequence_reduction") else "sr"
    return WidthRepair(attributes, _as_wide(changes, f"{reduction}.weight"))


@width_adapter("transformers.models.pvt_v2.modeling_pvt_v2.PvtV2SelfAttention")
def pvt_v2_attention(module: Any, changes: Changes) -> WidthRepair:
    """Its ``forward`` takes the width of all heads, and of the convolution that keys and values are made from, from
    that of the stream, so that all of these change together, by whole heads.

    Raises:
        Refused: if heads would come or go alone, or the stream's width is no whole number of heads.
    """
    stream, heads = changes.get(("query.weight", 1)), changes.get(("query.weight", 0))
    size = int(module.attention_head_size)
    if stream is None and heads is not None:
        raise Refused(
            f"PvtV2SelfAttention takes the width of its heads from the width of what it is fed ({module.hidden_size}): "
            f"heads come and go with that, by {size} channels each; change the width of the layer in front",
            "attention_heads",
        )
    if stream is None:
        return WidthRepair({}, _as_wide(changes, "spatial_reduction.weight"))
    if stream.new % size:
        raise Refused(
            f"PvtV2SelfAttention needs a multiple of its head size {size}, and {stream.new} is none",
            "attention_heads",
        )
    attributes = {
        "hidden_size": stream.new,
        "all_head_size": stream.new,
        "num_attention_heads": stream.new // size,
    }
    return WidthRepair(
        attributes, {("query.weight", 0): stream.new, **_as_wide(changes, "spatial_reduction.weight")}
    )


@width_adapter("transformers.models.segformer.modeling_segformer.SegformerSequenceReduction")
def sequence_reduction(module: Any, changes: Changes) -> WidthRepair:
    """Its convolution's result is reshaped to the width of the stream that it was made from."""
    return WidthRepair({}, _as_wide(changes, "sequence_reduction.weight"))


def _as_wide(changes: Changes, weight: str) -> dict[LocalDim, int]:
    """Sizes with which a layer makes as many channels as it reads."""
    change = changes.get((weight, 0)) or changes.get((weight, 1))
    return {} if change is None else {(weight, 0): change.new, (weight, 1): change.new}
