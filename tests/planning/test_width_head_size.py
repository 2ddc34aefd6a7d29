"""The size of heads, both ways: what they computed stays, old channels keep their frequencies, all of it is exact."""

from __future__ import annotations

from subprocess import run as run_process
from sys import executable
from typing import Any

import pytest
import torch
from attrs import frozen
from torch import Tensor, nn

from esper_es import Engine, Run, SurgeryResult, fingerprint
from esper_es.tracing import WidthGroup
from esper_es.tracing.structure import result_tensors

from .head_models import (
    BERT_OF_ONE,
    BLOOM,
    COHERE,
    DEBERTA,
    DEBERTA_V2,
    DYNAMIC,
    FALCON,
    FALCON_ALIBI,
    FREE,
    FUNNEL,
    FUNNEL_BASE,
    GEMMA3,
    GPT2_OF_ONE,
    GPTJ,
    GPTJ_TURNED,
    LLAMA4,
    LLAMA_OF_ONE,
    MISTRAL,
    NEOX,
    NORMED,
    ONE_POSITION,
    OPT,
    PERSIMMON,
    PHI,
    PHI_NORMED,
    QWEN3,
    ROFORMER,
    SCALED_NORMED,
    TEMPERED,
    TIMM,
    TIMM_NORMED,
    TURNED,
    WHISPER,
)
from .transformer_models import BERT, ENCODER, GEMMA, GPT2, LLAMA, PHI3, PVT, T5, VIT, Transformer, trained

ROUNDING = 2e-6
LLAMA_Q = "model.layers.0.self_attn.q_proj"


@frozen
class Heads:
    """Heads to change, by a layer that makes them, and the sizes that they have and get."""

    model: Transformer
    layer: str
    old: int = 8
    new: int = 10
    dimension: str | int = "out"

    def __str__(self) -> str:
        return f"{self.model.name}-{self.layer}"


HEADS = [
    Heads(LLAMA, LLAMA_Q),
    Heads(LLAMA, "model.layers.1.self_attn.o_proj", dimension="in"),
    Heads(MISTRAL, LLAMA_Q),
    Heads(QWEN3, LLAMA_Q),
    Heads(GEMMA3, LLAMA_Q),
    Heads(GEMMA, LLAMA_Q),
    Heads(GEMMA, "model.layers.0.self_attn.v_proj"),
    Heads(COHERE, LLAMA_Q),
    Heads(PHI3, "model.layers.0.self_attn.qkv_proj"),
    Heads(FALCON, "transformer.h.0.self_attention.query_key_value"),
    Heads(FALCON_ALIBI, "transformer.h.0.self_attention.query_key_value"),
    Heads(FALCON_ALIBI, "transformer.h.1.self_attention.dense", dimension="in"),
    Heads(BLOOM, "transformer.h.0.self_attention.query_key_value"),
    Heads(BLOOM, "transformer.h.1.self_attention.dense", dimension="in"),
    Heads(GPT2, "transformer.h.0.attn.c_attn"),
    Heads(BERT, "bert.encoder.layer.0.attention.self.query"),
    Heads(T5, "encoder.block.0.layer.0.SelfAttention.q"),
    Heads(T5, "decoder.block.0.layer.0.SelfAttention.v"),
    Heads(T5, "decoder.block.0.layer.1.EncDecAttention.k"),
    Heads(VIT, "vit.layers.0.attention.q_proj"),
    Heads(TIMM, "blocks.0.attn.qkv"),
    Heads(TIMM_NORMED, "blocks.0.attn.qkv"),
    Heads(ENCODER, "encoder.layers.0.self_attn.in_proj_weight", 4, 5, 0),
    Heads(NEOX, "gpt_neox.layers.0.attention.query_key_value", 8, 9),
    Heads(PHI, LLAMA_Q, 8, 9),
    Heads(OPT, "model.decoder.layers.0.self_attn.q_proj"),
    Heads(GPTJ, "transformer.h.0.attn.q_proj", 8, 9),
    Heads(DEBERTA, "deberta.encoder.layer.0.attention.self.in_proj"),
    Heads(DEBERTA_V2, "deberta.encoder.layer.0.attention.self.query_proj"),
    Heads(WHISPER, "model.encoder.layers.0.self_attn.q_proj"),
    Heads(WHISPER, "model.decoder.layers.0.encoder_attn.k_proj"),
    Heads(PVT, "pvt.encoder.block.0.0.attention.self.query", 4, 5),
    Heads(FREE, "q", 6, 7),
    Heads(BERT_OF_ONE, "bert.encoder.layer.0.attention.self.query", 12, 14),
    Heads(GPT2_OF_ONE, "transformer.h.0.attn.c_attn", 12, 14),
    Heads(LLAMA_OF_ONE, LLAMA_Q, 12, 14),
    Heads(PHI_NORMED, LLAMA_Q, 8, 9),
    Heads(PERSIMMON, "model.layers.0.self_attn.query_key_value"),
    *(Heads(model, "qkv") for model in TURNED),
    Heads(FUNNEL, "encoder.blocks.0.0.attention.q_head"),
    Heads(FUNNEL, "decoder.layers.1.attention.v_head"),
    Heads(LLAMA4, LLAMA_Q),
    Heads(LLAMA4, "model.layers.1.self_attn.k_proj"),
    Heads(SCALED_NORMED, "q", 6, 7),
    Heads(FUNNEL_BASE, "encoder.blocks.1.0.attention.post_proj", dimension="in"),
    Heads(ROFORMER, "roformer.encoder.layer.0.attention.self.query"),
]


def attached(engine: Engine, model: Transformer) -> Run:
    """Attach a model in which no channel is silent, and train it a little."""
    run = model.attached(engine)
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    trained(run)
    return run


def sized(run: Run, heads: Heads, size: int, **terms: Any) -> SurgeryResult:
    result = run.surgeon.modify_layer_width(
        layer_name=heads.layer, new_width=size, unit="head_size", dimension=heads.dimension, **terms
    )
    assert result.success, result.error
    return result


def outputs(run: Run) -> list[Tensor]:
    _, inputs = next(run.session.examples.fresh())
    run.model.eval()
    with torch.no_grad():
        found = [tensor.double() for tensor in result_tensors(run.model(**inputs))]
    run.model.train()
    return found


def first(module: nn.Module, group: WidthGroup) -> Tensor:
    """Prefer the places that come first."""
    return -torch.arange(group.units)


def moved(one: list[Tensor], other: list[Tensor]) -> float:
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_larger_heads_compute_what_they_did(heads: Heads, engine: Engine) -> None:
    run = attached(engine, heads.model)
    before = outputs(run)
    sized(run, heads, heads.new)
    assert moved(before, outputs(run)) <= ROUNDING


@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_channels_that_came_go_again(heads: Heads, engine: Engine) -> None:
    run = attached(engine, heads.model)
    before = outputs(run)
    sized(run, heads, heads.new)
    sized(run, heads, heads.old, importance=first)
    assert moved(before, outputs(run)) <= ROUNDING


@pytest.mark.parametrize("ways", [1, -1], ids=["larger", "smaller"])
@pytest.mark.parametrize("heads", HEADS[::2], ids=str)
def test_heads_of_another_size_train_replay_and_roll_back_exactly(
    heads: Heads, ways: int, engine: Engine
) -> None:
    run = attached(engine, heads.model)
    run.capture()
    old, version, before = run.fingerprint, run.version, outputs(run)
    sized(run, heads, heads.old + ways * (heads.new - heads.old))
    trained(run, 20)
    run.capture()
    replayed = engine.replay(heads.model.name)
    assert (replayed.esper_replay.exact, fingerprint(replayed)) == (True, run.fingerprint)
    run.rollback(to_version=version)
    assert run.fingerprint == old
    assert moved(before, outputs(run)) == 0.0


@pytest.mark.parametrize("heads", HEADS[1::2], ids=str)
def test_every_new_channel_learns(heads: Heads, engine: Engine) -> None:
    run = attached(engine, heads.model)
    sized(run, heads, heads.new)
    parameters = {name: p for name, p in run.model.named_parameters() if p.requires_grad}
    grown = [edit for edit in last_edits(engine, heads) if getattr(edit, "fill", None) is not None]
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    trained(run, 20)
    for edit in grown:
        if edit.tensor in parameters and parameters[edit.tensor].ndim > 1:
            change = (parameters[edit.tensor].detach() - before[edit.tensor]).movedim(edit.dim, 0)
            new = [index for index, old in enumerate(edit.gather) if old < 0]
            assert change[new].flatten(1).abs().sum(1).all(), edit.tensor


def last_edits(engine: Engine, heads: Heads) -> Any:
    return engine.history(heads.model.name)[-1].fact.edits


def refusal(run: Run, layer: str, size: int, **terms: Any) -> str:
    result = run.surgeon.modify_layer_width(
        layer_name=layer, new_width=size, **{"unit": "head_size", **terms}
    )
    assert not result.success
    return result.error or ""


def test_a_replay_computes_what_the_model_does(engine: Engine) -> None:
    run = attached(engine, LLAMA)
    sized(run, HEADS[0], 10)
    run.capture()
    _, inputs = next(run.session.examples.fresh())
    with torch.no_grad():
        found, live = engine.replay("llama").eval()(**inputs), run.model.eval()(**inputs)
    assert torch.equal(found.logits, live.logits)


def test_a_process_that_knows_nothing_but_the_log_comes_to_the_same(url: str) -> None:
    with Engine(url) as engine:
        run = attached(engine, MISTRAL)
        sized(run, HEADS[2], 12)
        trained(run)
        sized(run, HEADS[2], 6)
        run.capture()
        fingerprint_here = run.fingerprint
    code = (
        "import torch\nfrom esper_es import Engine, blueprint, fingerprint\n"
        "from transformers import MistralConfig, MistralForCausalLM\n"
        "sizes = dict(vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, head_dim=8,\n"
        "    num_key_value_heads=2, intermediate_size=40, pad_token_id=0, bos_token_id=0, eos_token_id=1)\n"
        "@blueprint('tests/width/mistral')\n"
        "def build(): return MistralForCausalLM(MistralConfig(**sizes, sliding_window=4))\n"
        f"with Engine({url!r}) as engine:\n    print(fingerprint(engine.replay('mistral')))"
    )
    answer = run_process([executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip().splitlines()[-1] == fingerprint_here


def test_old_pairs_keep_their_frequencies_and_new_ones_go_on(engine: Engine) -> None:
    run = attached(engine, LLAMA)
    before = run.model.get_buffer("model.rotary_emb.inv_freq").clone()
    sized(run, HEADS[0], 12)
    after = run.model.get_buffer("model.rotary_emb.inv_freq")
    assert torch.equal(after[:4], before)
    assert after[4:].tolist() == pytest.approx([1e-4, 1e-5])


def test_all_layers_change_that_one_table_turns(engine: Engine) -> None:
    run = attached(engine, LLAMA)
    sized(run, HEADS[0], 12)
    sizes = [layer.self_attn.head_dim for layer in run.model.model.layers]
    assert sizes == [12, 12]


def test_the_same_pairs_go_in_all_layers_with_their_frequencies(engine: Engine) -> None:
    run = attached(engine, LLAMA)
    before = run.model.get_buffer("model.rotary_emb.inv_freq").clone()
    kept = sized(run, HEADS[0], 4).details["kept_units"]
    assert torch.equal(run.model.get_buffer("model.rotary_emb.inv_freq"), before[list(kept)])
    gathers = {
        tuple(index % 8 for index in edit.gather if index < 8)
        for edit in last_edits(engine, HEADS[0])
        if getattr(edit, "tensor", "").endswith(("q_proj.weight", "k_proj.weight"))
    }
    assert gathers == {(*kept, *(index + 4 for index in kept))}


def test_new_channels_stand_at_the_end_of_each_half_of_a_turned_head(engine: Engine) -> None:
    run = attached(engine, LLAMA)
    sized(run, HEADS[0], 10)
    gather = next(
        list(edit.gather)
        for edit in last_edits(engine, HEADS[0])
        if getattr(edit, "tensor", "") == f"{LLAMA_Q}.weight"
    )
    assert gather[:20] == [0, 1, 2, 3, -1, 4, 5, 6, 7, -1, 8, 9, 10, 11, -1, 12, 13, 14, 15, -1]


def test_channels_that_are_not_turned_come_where_there_are_some(engine: Engine) -> None:
    run = attached(engine, PHI)
    before = run.model.get_buffer("model.rotary_emb.inv_freq").clone()
    result = sized(run, Heads(PHI, LLAMA_Q), 11)
    assert torch.equal(run.model.get_buffer("model.rotary_emb.inv_freq"), before)
    assert not [name for name in result.details["resized"] if "layers.1" in name]


def test_only_the_sizes_that_the_code_ties_change(engine: Engine) -> None:
    run = attached(engine, FREE)
    sized(run, Heads(FREE, "q"), 9)
    assert (run.model.qk_size, run.model.v_size, run.model.v.out_features) == (9, 6, 18)
    sized(run, Heads(FREE, "out", dimension="in"), 5)
    assert (run.model.qk_size, run.model.v_size, run.model.k.out_features) == (9, 5, 27)


def test_all_attentions_change_that_read_one_setting(engine: Engine) -> None:
    run = attached(engine, FUNNEL)
    sized(run, Heads(FUNNEL, "encoder.blocks.0.0.attention.q_head"), 10)
    parts = (run.model.encoder.blocks[1][0], run.model.decoder.layers[0])
    assert [part.attention.v_head.out_features for part in parts] == [40, 40]


def test_a_setting_that_all_attentions_read_follows(engine: Engine) -> None:
    run = attached(engine, FUNNEL)
    sized(run, Heads(FUNNEL, "encoder.blocks.0.0.attention.q_head"), 10)
    assert run.model.config.d_head == 10


def test_numbers_of_heads_that_are_as_large_by_chance_stay(engine: Engine) -> None:
    run = attached(engine, ENCODER)
    sized(run, Heads(ENCODER, "encoder.layers.0.self_attn.in_proj_weight", dimension=0), 6)
    attention = run.model.encoder.layers[0].self_attn
    assert (attention.num_heads, attention.head_dim, attention.embed_dim) == (4, 6, 16)


def test_the_configuration_of_a_t5_follows_once_all_its_heads_have_one_size(engine: Engine) -> None:
    run = attached(engine, T5)
    names = [name for name, module in run.model.named_modules() if type(module).__name__ == "T5Attention"]
    results = [sized(run, Heads(T5, f"{name}.q"), 10) for name in names]
    assert "layers differ" in results[0].details["config_note"]
    assert results[-1].details["config"] == {"d_kv": 10}
    assert run.model.config.d_kv == 10


def test_the_configuration_is_said_not_to_tell_of_rotary_frequencies(engine: Engine) -> None:
    run = attached(engine, LLAMA)
    result = sized(run, HEADS[0], 10)
    assert "frequencies" in result.details["config_note"]
    assert run.model.config.to_dict().get("head_dim") in (None, 8)


def test_scores_scaled_by_the_size_of_heads_are_made_up_for(engine: Engine) -> None:
    run = attached(engine, FREE)
    before = run.model.q.weight.detach().clone()
    assert "scores rescaled" in sized(run, Heads(FREE, "q"), 24).details["method"]
    assert torch.allclose(run.model.q.weight[:6], before[:6] * 2)


def test_how_scores_are_scaled_must_show(engine: Engine) -> None:
    assert "several positions" in refusal(ONE_POSITION.attached(engine), "q", 8)


def test_rotary_positions_that_are_computed_anew_are_named(engine: Engine) -> None:
    assert "'dynamic'" in refusal(DYNAMIC.attached(engine), LLAMA_Q, 10)


def test_turned_channels_come_in_pairs(engine: Engine) -> None:
    assert "can't have 9; what comes nearest is 10" in refusal(LLAMA.attached(engine), LLAMA_Q, 9)


def test_turned_channels_stay_where_others_could_go(engine: Engine) -> None:
    assert "of which 4 can go" in refusal(PHI.attached(engine), LLAMA_Q, 4)


def test_a_size_that_heads_have_is_no_change(engine: Engine) -> None:
    assert "have 8 channels already" in refusal(LLAMA.attached(engine), LLAMA_Q, 8)


def test_several_heads_that_nothing_shows_are_not_taken_for_one(engine: Engine) -> None:
    run = TEMPERED.attached(engine)
    before = run.state_fingerprint
    assert "all of its 18 channels come and go as one" in refusal(run, "q", 20)
    assert run.state_fingerprint == before


def test_a_stream_that_one_head_is_as_wide_as_stays(engine: Engine) -> None:
    run = attached(engine, BERT_OF_ONE)
    sized(run, Heads(BERT_OF_ONE, "bert.encoder.layer.0.attention.self.query"), 14)
    assert run.model.config.hidden_size == run.model.bert.embeddings.word_embeddings.embedding_dim == 12


def test_a_layer_without_heads_has_no_head_size(engine: Engine) -> None:
    assert "is made of heads" in refusal(LLAMA.attached(engine), "model.layers.0.mlp.gate_proj", 10)


def test_other_initializations_are_not_for_channels_of_heads(engine: Engine) -> None:
    error = refusal(LLAMA.attached(engine), LLAMA_Q, 10, initialization="net2wider")
    assert "choose function_preserving" in error


def test_a_norm_that_nothing_makes_up_for_is_refused(engine: Engine) -> None:
    assert "keeps what the others compute" in refusal(NORMED.attached(engine), "q", 8)


def test_a_norm_without_weights_keeps_its_epsilon_beside_fewer_channels(engine: Engine) -> None:
    run = attached(engine, LLAMA4)
    attention = run.model.model.layers[0].self_attn
    before = attention.qk_norm.eps
    sized(run, Heads(LLAMA4, LLAMA_Q), 10)
    assert attention.qk_norm.eps == pytest.approx(before * 8 / 10)


def test_what_a_norm_without_weights_makes_of_scores_is_scaled(engine: Engine) -> None:
    run = attached(engine, SCALED_NORMED)
    sized(run, Heads(SCALED_NORMED, "q"), 12)
    assert run.model.scale == pytest.approx(0.5 * 6 / 12)


def test_a_number_that_only_looks_like_an_epsilon_stays(engine: Engine) -> None:
    run = attached(engine, SCALED_NORMED)
    sized(run, Heads(SCALED_NORMED, "q"), 12)
    assert run.model.idle.eps == 1e-3


def test_a_refusal_leaves_everything_as_it_was(engine: Engine) -> None:
    run = attached(engine, NORMED)
    before = run.state_fingerprint
    refusal(run, "q", 8)
    assert run.state_fingerprint == before


def test_tables_of_sines_and_cosines_are_lengthened(engine: Engine) -> None:
    heads = Heads(GPTJ_TURNED, "transformer.h.0.attn.q_proj")
    run = attached(engine, GPTJ_TURNED)
    before = outputs(run)
    sized(run, heads, 10)
    assert moved(before, outputs(run)) <= ROUNDING
    table = run.model.get_buffer("transformer.h.0.attn.embed_positions")
    assert torch.allclose(table.chunk(2, 1)[0].square() + table.chunk(2, 1)[1].square(), torch.ones(16, 5))


@pytest.mark.parametrize("model", TURNED, ids=lambda model: model.name)
def test_sines_and_cosines_in_two_tables_stay_those_of_one_angle(model: Transformer, engine: Engine) -> None:
    run = attached(engine, model)
    before = run.model.sin.clone()
    sized(run, Heads(model, "qkv"), 12)
    cos, sin = run.model.cos[0, 0], run.model.sin[0, 0]
    assert torch.allclose(cos.square() + sin.square(), torch.ones_like(cos))
    assert sorted(set(torch.atan2(sin[1], cos[1]).tolist())) == pytest.approx(
        [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1], rel=1e-3
    )
    sized(run, Heads(model, "qkv"), 8, importance=first)
    assert torch.equal(run.model.sin, before)


def test_a_table_that_all_layers_share_is_lengthened_once(engine: Engine) -> None:
    run = ROFORMER.attached(engine)
    sized(run, Heads(ROFORMER, "roformer.encoder.layer.0.attention.self.query"), 10)
    sines, cosines = run.model.roformer.encoder.embed_positions.weight.chunk(2, 1)
    assert torch.allclose(sines.square() + cosines.square(), torch.ones(16, 5))


def test_an_explanation_tells_how_large_heads_are(engine: Engine) -> None:
    explanation = BERT.attached(engine).surgeon.explain("bert.encoder.layer.0.attention.self.query")
    assert "heads of 8 channels" in str(explanation)
