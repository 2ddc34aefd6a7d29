"""Insertion, removal and seeds in blocks with extra arguments that return tuples and records."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from blocks import MODELS, WIDTH, Blocks, attached_blocks, every_part, model_named, outputs, train_blocks
from torch import Tensor, nn

from esper_es import Engine, Run, SurgeryResult, blueprint, fingerprint

EVERY_PART = list(every_part())
ONE_PART = [pytest.param(model, model.parts[1], id=model.name) for model in MODELS]


def everywhere_and_once(everywhere: str, once: str) -> pytest.MarkDecorator:
    """Try one way on every part, and another on one part of each model."""
    cases = [pytest.param(*p.values, everywhere, id=f"{p.id}-{everywhere}") for p in EVERY_PART]
    cases += [pytest.param(*p.values, once, id=f"{p.id}-{once}") for p in ONE_PART]
    return pytest.mark.parametrize(("model", "part", "way"), cases)


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def assert_lives_on(
    engine: Engine, run: Run, inputs: dict[str, Tensor], result: SurgeryResult, before: str
) -> None:
    """Train on, replay exactly, roll back exactly."""
    assert result.success, result.error
    assert result.undo_version is not None
    train_blocks(run, inputs)
    run.capture()
    assert fingerprint(engine.replay("model")) == run.fingerprint
    assert run.rollback(result.undo_version).success
    assert run.state_fingerprint == before


@everywhere_and_once("residual", "sequential")
def test_an_inserted_layer_keeps_the_function_bit_by_bit(
    engine: Engine, model: Blocks, part: str, way: str
) -> None:
    run, inputs = attached_blocks(engine, model)
    train_blocks(run, inputs)
    before, state = outputs(run.model, inputs), run.state_fingerprint
    width = 48 if part.endswith("linear1") else WIDTH
    spec = {"type": "linear", "in_features": width, "out_features": width}
    result = run.surgeon.add_layer(after_layer=part, new_layer=spec, layer_name="fresh", connection_type=way)
    assert result.success, result.error
    assert same(outputs(run.model, inputs), before)
    assert_lives_on(engine, run, inputs, result, state)


@pytest.mark.parametrize(("model", "part"), ONE_PART)
def test_a_seed_grows_behind_any_part(engine: Engine, model: Blocks, part: str) -> None:
    run, inputs = attached_blocks(engine, model)
    train_blocks(run, inputs)
    before = outputs(run.model, inputs)
    run.seeds.plant("seed", part)
    state = run.state_fingerprint
    result = run.seeds.germinate("seed", "mlp")
    assert same(outputs(run.model, inputs), before)
    assert_lives_on(engine, run, inputs, result, state)


@everywhere_and_once("direct", "learned")
def test_a_removed_part_is_bypassed_and_comes_back(
    engine: Engine, model: Blocks, part: str, way: str
) -> None:
    run, inputs = attached_blocks(engine, model)
    train_blocks(run, inputs)
    batches = [model.inputs()]
    before, state = outputs(run.model, inputs), run.state_fingerprint
    result = run.surgeon.remove_layer(layer_name=part, bridge_strategy=way, calibration=batches)
    assert result.success, result.error
    after = outputs(run.model, inputs)
    assert [tensor.shape for tensor in after] == [tensor.shape for tensor in before]
    assert ("bridge_r2" in result.details) is (way == "learned")
    assert_lives_on(engine, run, inputs, result, state)


@pytest.mark.parametrize(
    "part", ["encode.layers.0.norm1", "encode.layers.1.dropout2", "encode.layers.0.self_attn"]
)
def test_what_stands_in_inside_a_fused_encoder_layer_is_run_in_evaluation_too(
    engine: Engine, part: str
) -> None:
    run, inputs = attached_blocks(engine, model_named("encoder"))
    assert run.surgeon.remove_layer(layer_name=part, bridge_strategy="learned").success
    with torch.no_grad():
        run.model.get_submodule(part).get_parameter(
            "bridge.bias" if part.endswith(("norm1", "attn")) else "bias"
        ).add_(1.0)
    with torch.enable_grad():
        unfused = run.model.eval()(**inputs)
    torch.testing.assert_close(outputs(run.model, inputs)[0], unfused.detach())


def test_a_result_that_only_the_removed_part_can_make_is_named_in_the_refusal(engine: Engine) -> None:
    run, inputs = attached_blocks(engine, model_named("t5"))
    before = outputs(run.model, inputs)
    result = run.surgeon.remove_layer(layer_name="encoder.block.0")
    assert (result.success, result.check) == (False, "side_output")
    assert "'encoder.block.1' takes" in (result.error or "")
    assert same(outputs(run.model, inputs), before)


def test_a_history_of_block_surgeries_replays_exactly_in_another_process(url: str, tmp_path: Path) -> None:
    with Engine(url) as engine:
        run, inputs = attached_blocks(engine, model_named("llama"))
        train_blocks(run, inputs)
        spec = {"type": "linear", "in_features": WIDTH, "out_features": WIDTH}
        for result in (
            run.surgeon.remove_layer(layer_name="model.layers.0.self_attn", bridge_strategy="learned"),
            run.surgeon.add_layer(after_layer="model.layers.1", new_layer=spec, layer_name="fresh"),
            run.surgeon.remove_layer(layer_name="model.layers.0.mlp"),
        ):
            assert result.success, result.error
            train_blocks(run, inputs)
        run.capture()
        expected = run.fingerprint
    code = (
        "import blocks\nfrom esper_es import Engine, fingerprint\n"
        f"with Engine({url!r}) as engine:\n    print(fingerprint(engine.replay('model')))"
    )
    tests = Path(__file__).parents[1]
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tests, timeout=120
    )
    assert found.stdout.strip() == expected


class Padded(nn.Module):
    """Around torch's encoder, which in evaluation packs what is padded into nested tensors."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 48, dropout=0.0, batch_first=True)
        self.encode = nn.TransformerEncoder(layer, 3)
        self.leave = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        scores: Tensor = self.leave(self.encode(x, src_key_padding_mask=padding))
        return scores


blueprint("tests/padded")(Padded)
SPEC = {"type": "linear", "in_features": WIDTH, "out_features": WIDTH}
PADDED: dict[str, Callable[[Run], SurgeryResult]] = {
    "insertion": lambda run: run.surgeon.add_layer(
        after_layer="encode.layers.1.norm1", new_layer=SPEC, layer_name="fresh", connection_type="residual"
    ),
    "insertion behind a layer": lambda run: run.surgeon.add_layer(
        after_layer="encode.layers.1", new_layer=SPEC, layer_name="fresh"
    ),
    "skip": lambda run: run.surgeon.add_skip_connection(
        from_layer="encode.layers.0", to_layer="encode.layers.2", connection_type="concat"
    ),
    "removal of the first layer": lambda run: run.surgeon.remove_layer(layer_name="encode.layers.0"),
    "removal of attention": lambda run: run.surgeon.remove_layer(layer_name="encode.layers.1.self_attn"),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("what", PADDED)
def test_an_encoder_that_packs_padded_sequences_runs_in_evaluation_after(what: str, engine: Engine) -> None:
    model, x = Padded(), torch.randn(4, 7, WIDTH)
    padding = torch.arange(7)[None, :] >= torch.tensor([[4], [7], [6], [7]])
    run = engine.attach(model, name="model", example_inputs=(x, padding), blueprint="tests/padded")
    with torch.no_grad():
        before = model.eval()(x, padding)[~padding]
    result = PADDED[what](run)
    assert result.success, result.error
    with torch.no_grad():
        after = model.eval()(x, padding)[~padding]
    if "removal" not in what:
        torch.testing.assert_close(after, before)
    assert result.undo_version is not None
    run.rollback(result.undo_version)
    assert model.encode.use_nested_tensor
    with torch.no_grad():
        assert torch.equal(model.eval()(x, padding)[~padding], before)
