"""Widths of ``nn.MultiheadAttention``: its heads and the stream around it change one without the other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper_es import Engine, Run, SurgeryResult, UsageError, blueprint, fingerprint

from .transformer_models import ENCODER, Transformer, trained

ATTENTION = "encoder.layers.0.self_attn"
PACKED = f"{ATTENTION}.in_proj_weight"


class Reader(nn.Module):
    """Queries read keys and values of other widths, behind a learnt position and one of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(5, 12)
        self.key = nn.Linear(6, 7)
        self.value = nn.Linear(6, 9)
        self.attend = nn.MultiheadAttention(
            12, 3, kdim=7, vdim=9, add_bias_kv=True, add_zero_attn=True, batch_first=True
        )
        self.leave = nn.Linear(12, 2)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        mixed, _ = self.attend(self.query(x), self.key(memory), self.value(memory))
        left: Tensor = self.leave(torch.relu(mixed))
        return left


class Translator(nn.Module):
    """torch's encoder and decoder; the second sees what is behind it only."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(5, 12)
        self.transformer = nn.Transformer(12, 3, 1, 1, 20, dropout=0.0, batch_first=True, norm_first=True)
        self.leave = nn.Linear(12, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(y.shape[1])
        left: Tensor = self.leave(
            self.transformer(self.enter(x), self.enter(y), tgt_mask=mask, tgt_is_causal=True)
        )
        return left


class _OwnForward(nn.MultiheadAttention):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


class Subclassed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(5, 8)
        self.attend = _OwnForward(8, 2)
        self.leave = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        entered = self.enter(x)
        left: Tensor = self.leave(self.attend(entered, entered, entered)[0])
        return left


def _model(build: Callable[[], nn.Module], **inputs: tuple[int, ...]) -> Transformer:
    def made() -> Mapping[str, Tensor]:
        return {name: torch.randn(shape) for name, shape in inputs.items()}

    name = f"attention-{build.__name__.lower()}"
    blueprint(f"tests/width/{name}")(build)
    return Transformer(name, build, made)


READER = _model(Reader, x=(2, 4, 5), memory=(2, 3, 6))
TRANSLATOR = _model(Translator, x=(2, 4, 5), y=(2, 3, 5))
SUBCLASSED = _model(Subclassed, x=(4, 2, 5))


def widened(run: Run, layer: str, width: int, dimension: str | int = "out") -> SurgeryResult:
    result = run.surgeon.modify_layer_width(
        layer_name=layer, new_width=width, unit="units", dimension=dimension
    )
    assert result.success, result.error
    return result


def sizes(run: Run, path: str = ATTENTION) -> tuple[int, int, int | None]:
    layer = run.model.get_submodule(path)
    return layer.embed_dim, layer.num_heads, layer.__dict__.get("inner_dim")


def test_the_stream_takes_any_width_and_heads_stay(engine: Engine) -> None:
    run = ENCODER.attached(engine)
    widened(run, "enter", 18)
    assert sizes(run) == (18, 4, 16)


def test_heads_come_and_the_stream_stays(engine: Engine) -> None:
    run = ENCODER.attached(engine)
    widened(run, PACKED, 5, 0)
    assert (sizes(run), sizes(run, "encoder.layers.1.self_attn")) == ((16, 5, 20), (16, 4, None))


def test_where_heads_fill_the_stream_again_torchs_own_code_runs(engine: Engine) -> None:
    run = ENCODER.attached(engine)
    widened(run, PACKED, 5, 0)
    widened(run, PACKED, 4, 0)
    layer = run.model.get_submodule(ATTENTION)
    assert (type(layer), sizes(run), dict(layer._forward_hooks)) == (nn.MultiheadAttention, (16, 4, None), {})


def test_in_evaluation_nothing_is_fused_past_free_heads(engine: Engine) -> None:
    run = ENCODER.attached(engine)
    widened(run, "enter", 18)
    x = torch.randn(3, 4, 5)
    trained_output = run.model.train()(x)
    with torch.no_grad():
        evaluated = run.model.eval()(x)
    assert torch.equal(trained_output, evaluated)


def test_a_copy_of_free_heads_is_no_other(engine: Engine) -> None:
    run = ENCODER.attached(engine)
    widened(run, "enter", 18)
    x = torch.randn(3, 4, 5)
    assert torch.equal(copy.deepcopy(run.model)(x), run.model(x))


def test_an_export_of_free_heads_computes_the_same(engine: Engine) -> None:
    run = ENCODER.attached(engine)
    widened(run, "enter", 18)
    x = torch.randn(3, 4, 5)
    assert torch.equal(run.export()(x), run.model.eval()(x))


def test_an_export_of_free_heads_can_not_stand_alone_and_says_so(engine: Engine) -> None:
    run = ENCODER.attached(engine)
    widened(run, "enter", 18)
    with pytest.raises(UsageError, match=ATTENTION):
        run.export(standalone=True)


@pytest.mark.parametrize(
    ("layer", "width", "dimension", "expected"),
    [
        ("query", 14, "out", (14, 3, 12)),
        ("key", 9, "out", (12, 3, None)),
        ("value", 8, "out", (12, 3, None)),
        ("attend.q_proj_weight", 4, 0, (12, 4, 16)),
        ("attend.q_proj_weight", 2, 0, (12, 2, 8)),
        ("attend.out_proj", 15, "out", (12, 3, 12)),
    ],
)
def test_attention_to_another_stream(
    layer: str, width: int, dimension: str | int, expected: tuple[int, int, int | None], engine: Engine
) -> None:
    run = READER.attached(engine)
    trained(run)
    widened(run, layer, width, dimension)
    assert sizes(run, "attend") == expected


@pytest.mark.parametrize(
    ("layer", "width", "dimension"),
    [
        ("enter", 14, "out"),
        ("enter", 11, "out"),
        ("transformer.decoder.layers.0.multihead_attn.in_proj_weight", 4, 0),
    ],
)
def test_a_decoder_under_its_mask_rolls_back_and_replays_exactly(
    layer: str, width: int, dimension: str | int, engine: Engine
) -> None:
    run = TRANSLATOR.attached(engine)
    trained(run)
    before = run.capture()
    state = run.state_fingerprint
    widened(run, layer, width, dimension)
    trained(run)
    run.capture()
    replayed = engine.replay(TRANSLATOR.name)
    assert (replayed.esper_replay.exact, fingerprint(replayed)) == (True, run.fingerprint)
    assert run.rollback(before).success
    assert run.state_fingerprint == state


def test_heads_of_a_subclass_with_a_forward_of_its_own_go_with_the_stream(engine: Engine) -> None:
    run = SUBCLASSED.attached(engine)
    widened(run, "enter", 12)
    assert sizes(run, "attend") == (12, 3, None)


class Padded(nn.Module):
    """Positions that are padded are hidden from its attention."""

    def __init__(self, need_weights: bool = False) -> None:
        super().__init__()
        self.enter = nn.Linear(5, 8)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.leave = nn.Linear(8, 3)
        self.need_weights = need_weights

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        x = self.enter(x)
        left: Tensor = self.leave(
            self.attend(x, x, x, key_padding_mask=padding, need_weights=self.need_weights)[0]
        )
        return left


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("as_numbers", [False, True])
def test_a_mask_of_padding_ties_no_heads(need_weights: bool, as_numbers: bool, engine: Engine) -> None:
    padding = torch.zeros(2, 4, dtype=torch.bool)
    padding[0, 2:] = True
    inputs = (torch.randn(2, 4, 5), padding.float() if as_numbers else padding)
    blueprint(f"tests/width/padded-{need_weights}")(lambda: Padded(need_weights))
    run = engine.attach(
        Padded(need_weights), "padded", inputs, blueprint=f"tests/width/padded-{need_weights}"
    )
    before = run.model.eval()(*inputs)
    widened(run, "attend", 3)
    widened(run, "enter", 9)
    widened(run, "attend", 4)
    torch.testing.assert_close(run.model.eval()(*inputs), before)


def packing() -> nn.Module:
    """An encoder that packs padded sequences in evaluation."""
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2)


blueprint("tests/width/packing")(packing)


def packed(engine: Engine, *, padded_examples: bool = False) -> tuple[Run, dict[str, Tensor]]:
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    inputs = {"src": torch.randn(2, 5, 8), "src_key_padding_mask": padding}
    examples = inputs if padded_examples else {"src": inputs["src"]}
    return engine.attach(packing().eval(), "packing", examples, blueprint="tests/width/packing"), inputs


@torch.no_grad()
def test_an_encoder_packs_again_once_a_bridge_inside_it_is_rolled_back(engine: Engine) -> None:
    run, inputs = packed(engine)
    before = run.model(**inputs)
    result = run.surgeon.remove_layer(layer_name="layers.0.linear1")
    assert result.undo_version is not None
    run.rollback(result.undo_version)
    assert torch.equal(run.model(**inputs), before)


@torch.no_grad()
def test_an_encoder_does_not_pack_past_a_bridge_that_a_rollback_brings_back(engine: Engine) -> None:
    run, inputs = packed(engine)
    result = run.surgeon.remove_layer(layer_name="layers.0.linear1")
    bridged, after = run.capture(), run.model(**inputs)
    assert result.undo_version is not None
    run.rollback(result.undo_version)
    run.rollback(bridged)
    assert torch.equal(run.model(**inputs), after)


@torch.no_grad()
def test_outputs_that_change_where_packing_stops_are_told(engine: Engine) -> None:
    run, inputs = packed(engine, padded_examples=True)
    before = run.model(**inputs)
    spec = {"type": "linear", "in_features": 8, "out_features": 8}
    result = run.surgeon.add_layer(
        after_layer="layers.0", new_layer=spec, layer_name="new", connection_type="residual"
    )
    assert (run.model(**inputs) - before).abs().max() > 0.1
    assert result.details["function_preserved"] is False


def test_where_another_head_would_begin_can_not_be_told_of_one(engine: Engine) -> None:
    run = ENCODER.attached(engine)
    widened(run, PACKED, 1, 0)
    result = run.surgeon.modify_layer_width(layer_name=PACKED, new_width=2, unit="units", dimension=0)
    assert (result.success, result.check) == (False, "attention_heads")


def test_attention_has_one_learnt_position(engine: Engine) -> None:
    result = READER.attached(engine).surgeon.modify_layer_width(
        layer_name="attend.bias_k", new_width=2, dimension=0
    )
    assert not result.success
