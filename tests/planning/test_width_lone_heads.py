"""Attention with one head: others come beside it, and one may be all that is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from attrs import frozen
from torch import Tensor, nn

from esper_es import Engine, blueprint, fingerprint

from .transformer_models import COMMON, PYRAMID, Encoder, Transformer, trained, transformers

ALONE = {**COMMON, "num_attention_heads": 1}
SHARED = {**COMMON, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}


def gpt2() -> nn.Module:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=97, n_positions=16, n_embd=32, n_layer=2, n_head=1, bos_token_id=0, eos_token_id=1
        )
    )


def bert() -> nn.Module:
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(**ALONE, intermediate_size=48, max_position_embeddings=16)
    )


def llama() -> nn.Module:
    sizes = {**ALONE, "num_key_value_heads": 1, "head_dim": 8}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, intermediate_size=40))


def shared() -> nn.Module:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHARED, intermediate_size=40))


def qwen() -> nn.Module:
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SHARED, intermediate_size=40))


def vit() -> nn.Module:
    sizes = {key: value for key, value in ALONE.items() if key != "vocab_size"}
    config = transformers.ViTConfig(**sizes, intermediate_size=48, image_size=16, patch_size=8)
    return transformers.ViTForImageClassification(config)


def swin() -> nn.Module:
    config = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[1, 2], window_size=4
    )
    return transformers.SwinForImageClassification(config)


def pvt() -> nn.Module:
    sizes = {**PYRAMID, "num_attention_heads": [1, 4]}
    config = transformers.PvtConfig(image_size=16, sequence_reduction_ratios=[2, 1], **sizes)
    return transformers.PvtForImageClassification(config)


def t5() -> nn.Module:
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=97, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=1)
    )


class Torch(Encoder):
    """torch's own encoder layers with one head."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 1, 24, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(16), enable_nested_tensor=False)


class Attention(nn.Module):
    """Attention whose heads, all together, are normed before they are read."""

    def __init__(self, heads: int, normed: bool, strided: bool, least: int) -> None:
        super().__init__()
        self.heads, self.strided, self.least = heads, strided, least
        self.q, self.k, self.v = (nn.Linear(16, 8 * heads) for _ in range(3))
        self.norm = nn.LayerNorm(8 * heads) if normed else nn.Identity()
        self.out = nn.Linear(8 * heads, 16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.parted(layer(x)) for layer in (self.q, self.k, self.v))
        mixed = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        mixed = mixed.permute(0, 2, 3, 1) if self.strided else mixed.transpose(1, 2)
        out: Tensor = self.out(self.norm(mixed.flatten(2)))
        return out

    def parted(self, x: Tensor) -> Tensor:
        heads = max(self.heads, self.least)
        if self.strided:
            return x.unflatten(-1, (-1, heads)).permute(0, 3, 1, 2)
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class Normed(nn.Module):
    def __init__(self, heads: int = 1, normed: bool = True, strided: bool = False, least: int = 1) -> None:
        super().__init__()
        self.enter = nn.Linear(5, 16)
        self.attend = Attention(heads, normed, strided, least)
        self.leave = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        left: Tensor = self.leave(x + self.attend(x))
        return left


class Block(nn.Module):
    """Attention and inner layers in one module."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 1
        self.q, self.k, self.v = (nn.Linear(16, 8) for _ in range(3))
        self.widen, self.narrow, self.out = nn.Linear(16, 20), nn.Linear(20, 16), nn.Linear(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        mixed = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        left: Tensor = x + self.narrow(self.widen(x).relu())
        return left


class Together(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.first, self.second = nn.Linear(5, 16), Block(), Block()
        self.leave = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        left: Tensor = self.leave(self.second(self.first(self.enter(x))))
        return left


class Rooted(Block):
    """Nothing is around it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.repeat(1, 1, 4)[..., :16])


def phi3() -> nn.Module:
    """All heads of queries share one of keys and values, in one packed weight; all layers count them by one number."""
    return transformers.Phi3ForCausalLM(
        transformers.Phi3Config(**SHARED, intermediate_size=40, pad_token_id=0)
    )


def xlnet() -> nn.Module:
    """Weights have a dimension for heads and another for their channels; one head has only the latter to show."""
    config = transformers.XLNetConfig(vocab_size=97, d_model=16, n_layer=2, n_head=1, d_inner=24)
    return transformers.XLNetForSequenceClassification(config)


class Grouped(nn.Module):
    """Norms of one group, on a stream and beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm = nn.Linear(5, 8), nn.GroupNorm(1, 8)
        self.inner, self.last, self.leave = nn.Linear(8, 8), nn.GroupNorm(1, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        x = x + self.inner(self.normed(self.norm, x).relu())
        left: Tensor = self.leave(self.normed(self.last, x))
        return left

    def normed(self, norm: nn.Module, x: Tensor) -> Tensor:
        result: Tensor = norm(x.transpose(1, 2)).transpose(1, 2)
        return result


class Weighing(nn.Module):
    """torch's attention, which averages weights over its heads for nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 16), nn.Linear(16, 3)
        self.attend = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        left: Tensor = self.leave(self.attend(x, x, x)[0])
        return left


blueprint("tests/lone/normed-as-asked")(Normed)


def _model(build: Callable[[], nn.Module], inputs: Callable[[], Mapping[str, Tensor]]) -> Transformer:
    name = f"lone-{build.__name__.lower()}"
    blueprint(f"tests/width/{name}")(build)
    return Transformer(name, build, inputs)


def _tokens() -> Mapping[str, Tensor]:
    return {"input_ids": torch.randint(2, 97, (2, 6))}


def _segments() -> Mapping[str, Tensor]:
    return {**_tokens(), "token_type_ids": torch.tensor([[0, 0, 1, 1, 1, 2]] * 2)}


def _images(size: int) -> Mapping[str, Tensor]:
    return {"pixel_values": torch.randn(2, 3, size, size)}


def _sequences() -> Mapping[str, Tensor]:
    return {"x": torch.randn(3, 4, 5)}


@frozen
class Lone:
    """A head that is alone: a layer of its attention, and by how much outputs may move when another one comes."""

    model: Transformer
    layer: str
    dimension: str | int = "out"
    bound: float = 0.0

    def __str__(self) -> str:
        return self.model.name


T5 = _model(t5, lambda: {**_tokens(), "decoder_input_ids": torch.randint(2, 97, (2, 6))})
WEIGHING = _model(Weighing, _sequences)
GPT2 = Lone(_model(gpt2, _tokens), "transformer.h.0.attn.c_attn")
LLAMA = Lone(_model(llama, _tokens), "model.layers.0.self_attn.q_proj")
SHARED_KEYS = Lone(_model(shared, _tokens), "model.layers.0.self_attn.k_proj")
TOGETHER = Lone(_model(Together, _sequences), "first.q")
HEADS = [
    GPT2,
    LLAMA,
    SHARED_KEYS,
    Lone(_model(bert, _tokens), "bert.encoder.layer.0.attention.self.query"),
    Lone(T5, "encoder.block.0.layer.0.SelfAttention.q"),
    Lone(_model(qwen, _tokens), "model.layers.0.self_attn.k_proj"),
    Lone(_model(vit, lambda: _images(16)), "vit.layers.0.attention.v_proj"),
    Lone(_model(swin, lambda: _images(32)), "swin.encoder.layers.0.blocks.1.attention.q_proj"),
    Lone(_model(pvt, lambda: _images(16)), "pvt.encoder.block.0.0.attention.self.query"),
    Lone(_model(Torch, _sequences), "encoder.layers.0.self_attn.in_proj_weight", 0),
    Lone(_model(Normed, _sequences), "attend.q", "out", 4e-7),
    TOGETHER,
    Lone(TOGETHER.model, "second.v"),
    Lone(_model(Rooted, _sequences), "q"),
    Lone(_model(phi3, _tokens), "model.layers.0.self_attn.qkv_proj"),
    Lone(_model(xlnet, _segments), "transformer.layer.0.rel_attn.q", 1),
    Lone(_model(Grouped, _sequences), "enter"),
]


def normed(engine: Engine, **arguments: Any) -> Any:
    return engine.attach(
        Normed(**arguments),
        "model",
        dict(_sequences()),
        blueprint="tests/lone/normed-as-asked",
        blueprint_args=arguments,
    )


@pytest.mark.parametrize("heads", [2, 4])
@pytest.mark.parametrize("lone", HEADS, ids=str)
def test_heads_come_beside_the_only_one_and_the_function_stays(
    lone: Lone, heads: int, engine: Engine
) -> None:
    result = lone.model.attached(engine).surgeon.modify_layer_width(
        layer_name=lone.layer, new_width=heads, unit="heads", dimension=lone.dimension
    )
    assert result.success, result.error
    assert result.details["units"] == (1, heads)
    assert result.details["output_difference"] <= lone.bound


@pytest.mark.parametrize("lone", HEADS, ids=str)
def test_a_second_head_trains_replays_and_rolls_back_exactly(lone: Lone, engine: Engine) -> None:
    run = lone.model.attached(engine)
    trained(run)
    run.capture()
    old, version = run.fingerprint, run.version
    assert run.surgeon.modify_layer_width(
        layer_name=lone.layer, new_width=2, unit="heads", dimension=lone.dimension
    ).success
    trained(run)
    run.capture()
    replayed = engine.replay(lone.model.name)
    assert (replayed.esper_replay.exact, fingerprint(replayed)) == (True, run.fingerprint)
    run.rollback(to_version=version)
    assert run.fingerprint == old


@pytest.mark.parametrize("lone", HEADS, ids=str)
def test_what_comes_beside_one_head_can_go_again(lone: Lone, engine: Engine) -> None:
    run = lone.model.attached(engine)
    run.capture()
    shapes = [parameter.shape for parameter in run.model.parameters()]
    for heads in (2, 1):
        result = run.surgeon.modify_layer_width(
            layer_name=lone.layer, new_width=heads, unit="heads", dimension=lone.dimension
        )
        assert result.success, result.error
    assert [parameter.shape for parameter in run.model.parameters()] == shapes


def test_a_head_whose_places_are_fixed_is_doubled_by_channels_too(engine: Engine) -> None:
    run = LLAMA.model.attached(engine)
    assert run.surgeon.modify_layer_width(layer_name=LLAMA.layer, new_width=16).success
    assert run.model.get_submodule(LLAMA.layer).out_features == 16


def test_units_stay_what_the_trace_shows(engine: Engine) -> None:
    result = LLAMA.model.attached(engine).surgeon.modify_layer_width(
        layer_name=LLAMA.layer, new_width=2, unit="units"
    )
    assert (result.success, result.check) == (False, "pinned")


def test_channels_of_a_free_head_come_one_by_one(engine: Engine) -> None:
    run = GPT2.model.attached(engine)
    assert run.surgeon.modify_layer_width(layer_name=GPT2.layer, new_width=3 * 33).success
    assert run.model.get_submodule("transformer.h.0.attn").num_heads == 1


@pytest.mark.parametrize("layer", ["transformer.h.0.mlp.c_fc", "transformer.wte"])
def test_what_is_no_head_is_refused_as_heads(layer: str, engine: Engine) -> None:
    result = GPT2.model.attached(engine).surgeon.modify_layer_width(
        layer_name=layer, new_width=2, unit="heads", dimension=1
    )
    assert (result.success, result.check) == (False, "heads")


def test_a_head_whose_layout_would_interleave_with_others_is_refused(engine: Engine) -> None:
    result = normed(engine, normed=False, strided=True).surgeon.modify_layer_width(
        layer_name="attend.q", new_width=2, unit="heads"
    )
    assert (result.success, result.check) == (False, "heads")


@pytest.mark.parametrize("heads", [2, 3])
def test_one_head_may_be_all_that_a_norm_over_heads_leaves(heads: int, engine: Engine) -> None:
    run = normed(engine, heads=heads)
    result = run.surgeon.modify_layer_width(layer_name="attend.q", new_width=1, unit="units")
    assert result.success, result.error
    attention = run.model.attend
    assert (attention.heads, attention.out.in_features, attention.norm.normalized_shape) == (1, 8, (8,))


def test_what_is_left_under_a_norm_and_read_as_several_heads_is_refused(engine: Engine) -> None:
    result = normed(engine, heads=3, least=2).surgeon.modify_layer_width(
        layer_name="attend.q", new_width=1, unit="units"
    )
    assert (result.success, result.check) == (False, "fixed_width")


def test_one_head_may_be_all_that_is_left_of_torchs_attention(engine: Engine) -> None:
    run = WEIGHING.attached(engine)
    result = run.surgeon.modify_layer_width(
        layer_name="attend.in_proj_weight", new_width=1, unit="units", dimension=0
    )
    assert result.success, result.error
    assert (run.model.attend.num_heads, run.model.attend.out_proj.in_features) == (1, 8)


@pytest.mark.parametrize(
    "layer", ["decoder.block.0.layer.0.SelfAttention.q", "decoder.block.0.layer.1.EncDecAttention.q"]
)
def test_only_the_attentions_of_one_stack_get_another_head(layer: str, engine: Engine) -> None:
    run = T5.attached(engine)
    result = run.surgeon.modify_layer_width(layer_name=layer, new_width=2, unit="heads")
    assert result.success, result.error
    heads = {path: part.n_heads for path, part in run.model.named_modules() if hasattr(part, "n_heads")}
    kind = layer.split(".")[-2]
    assert {path for path, count in heads.items() if count == 2} == {
        path for path in heads if path.startswith("decoder.") and path.endswith(kind)
    }


class Plain(nn.Module):
    """Attention whose forward reads the number of heads."""

    def __init__(self, heads: int = 1) -> None:
        super().__init__()
        self.heads = heads
        self.enter = nn.Linear(5, 8)
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.leave = nn.Linear(8, 3)

    def turned(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x)
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        mixed = nn.functional.scaled_dot_product_attention(self.turned(q), self.turned(k), v)
        result: torch.Tensor = self.leave(x + self.out(mixed.transpose(1, 2).flatten(2)))
        return result


class InPairs(Plain):
    """Learnt rotations turn neighbouring channels of a head together."""

    def __init__(self) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.rand(4))

    def turned(self, x: torch.Tensor) -> torch.Tensor:
        angles = torch.arange(x.shape[2])[:, None] * self.frequencies
        even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
        turned = (even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos())
        return torch.stack(turned, -1).flatten(-2)


@blueprint("tests/lone/in-pairs")
def in_pairs() -> nn.Module:
    return InPairs()


@blueprint("tests/lone/plain")
def plain(heads: int) -> nn.Module:
    return Plain(heads)


def test_pairs_of_channels_are_no_heads(engine: Engine) -> None:
    run = engine.attach(InPairs(), "model", torch.randn(2, 6, 5), blueprint="tests/lone/in-pairs")
    result = run.surgeon.modify_layer_width(layer_name="q", new_width=2, unit="heads")
    assert result.success, result.error
    assert (run.model.heads, run.model.q.out_features, run.model.frequencies.numel()) == (2, 16, 4)


def test_an_inner_width_is_not_a_part_of_the_head_beside_it(engine: Engine) -> None:
    result = TOGETHER.model.attached(engine).surgeon.modify_layer_width(
        layer_name="first.widen", new_width=2, unit="heads"
    )
    assert (result.success, result.check) == (False, "heads")


@pytest.mark.parametrize("heads", [2, 3])
def test_the_head_that_is_left_is_one_though_nothing_reads_it_yet(heads: int, engine: Engine) -> None:
    model = Plain(2)
    nn.init.zeros_(model.out.weight)
    run = engine.attach(
        model, "model", torch.randn(2, 6, 5), blueprint="tests/lone/plain", blueprint_args={"heads": 2}
    )
    if heads == 3:
        assert run.surgeon.modify_layer_width(layer_name="q", new_width=3, unit="heads").success
    result = run.surgeon.modify_layer_width(layer_name="q", new_width=1, unit="heads")
    assert result.success, result.error
    assert (run.model.heads, run.model.q.out_features) == (1, 4)


def test_a_wider_head_is_not_counted_as_two(engine: Engine) -> None:
    run = T5.attached(engine)
    layer = "decoder.block.0.layer.1.EncDecAttention"
    for name in ("encoder.block.0.layer.0.SelfAttention", "decoder.block.0.layer.0.SelfAttention", layer):
        run.surgeon.modify_layer_width(layer_name=f"{name}.q", new_width=16)
    heads = [part for part in run.model.modules() if hasattr(part, "n_heads")]
    assert {part.n_heads for part in heads} == {1}
    assert all(part.q.out_features == part.key_value_proj_dim for part in heads)


@pytest.mark.parametrize("initialization", ["kaiming", "xavier", "zeros", "net2wider"])
@pytest.mark.parametrize("lone", [GPT2, LLAMA, SHARED_KEYS], ids=str)
def test_a_second_head_may_begin_in_any_way(lone: Lone, initialization: str, engine: Engine) -> None:
    result = lone.model.attached(engine).surgeon.modify_layer_width(
        layer_name=lone.layer, new_width=2, unit="heads", initialization=initialization
    )
    assert result.success, result.error
