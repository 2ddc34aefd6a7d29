"""Models of ``transformers`` are rebuilt from the log alone, and the log can ask the library for nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from esper_es import Engine, ReplayError, UsageError, blueprint, fingerprint
from esper_es.cli.program import app
from esper_es.domain.facts import ModelRegistered
from esper_es.projections.live.transformers_models import build

pytestmark = pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")

TOKENS = torch.arange(18).view(2, 9)
TINY = {"vocab_size": 101, "n_positions": 32, "n_embd": 24, "n_layer": 2, "n_head": 3}

REPLAY = """
import json, sys
if sys.argv[2] == "without":
    sys.modules["transformers"] = None
from esper_es import Engine, ReplayError, fingerprint
with Engine(sys.argv[1]) as engine:
    try:
        model = engine.replay("gpt")
        print(json.dumps([fingerprint(model), model.esper_replay.exactness]))
    except ReplayError as error:
        print(json.dumps(str(error)))
"""


def gpt(**changes: Any) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(**{**TINY, **changes}))


def replayed_elsewhere(log: Path, transformers: str = "with") -> Any:
    """Replay in a process that has never heard of the model; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", REPLAY, f"sqlite:///{log}", transformers],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def registered(engine: Engine, name: str) -> ModelRegistered:
    fact = engine.history(name)[0].fact
    assert isinstance(fact, ModelRegistered)
    return fact


def test_a_fresh_process_replays_a_model_after_surgery_without_any_code_of_the_users(tmp_path: Path) -> None:
    log = tmp_path / "runs.db"
    with Engine(f"sqlite:///{log}") as engine:
        run = engine.attach(gpt(), "gpt", example_inputs={"input_ids": TOKENS})
        assert run.surgeon.add_layer(
            after_layer="transformer.h.0.mlp",
            layer_name="adapter",
            new_layer={"type": "linear", "in_features": 24, "out_features": 24},
            connection_type="residual",
        ).success
        live = run.fingerprint
    assert replayed_elsewhere(log) == [live, "exact"]


def test_a_replay_without_the_library_names_the_extra_that_brings_it(tmp_path: Path) -> None:
    log = tmp_path / "runs.db"
    with Engine(f"sqlite:///{log}") as engine:
        engine.attach(gpt(), "gpt", example_inputs={"input_ids": TOKENS})
    assert "pip install 'esper-es[transformers]'" in replayed_elsewhere(log, "without")


def test_the_command_line_asks_for_the_library_and_not_for_code_of_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "runs.db"
    with Engine(f"sqlite:///{log}") as engine:
        engine.attach(gpt(), "gpt", example_inputs={"input_ids": TOKENS})
    monkeypatch.setitem(sys.modules, "transformers", None)
    answer = CliRunner().invoke(app, ["--db", str(log), "replay"])
    assert answer.exit_code == 1
    assert "esper-es[transformers]" in answer.stderr
    assert "--import" not in answer.stderr


def test_the_whole_configuration_is_recorded_so_that_defaults_may_change() -> None:
    engine = Engine()
    engine.attach(gpt(layer_norm_epsilon=1e-6), "gpt", example_inputs={"input_ids": TOKENS})
    base = registered(engine, "gpt").base
    assert base.blueprint == "transformers"
    config = base.arguments["config"]
    assert (config["layer_norm_epsilon"], config["resid_pdrop"]) == (1e-6, 0.1)


def test_the_blueprint_can_be_named_with_a_few_entries_of_the_configuration() -> None:
    engine = Engine()
    arguments = {"architecture": "GPT2LMHeadModel", "config": TINY}
    run = engine.attach(
        gpt(), "gpt", {"input_ids": TOKENS}, blueprint="transformers", blueprint_args=arguments
    )
    assert fingerprint(engine.replay("gpt")) == run.fingerprint


def test_a_model_in_half_precision_comes_back_in_half_precision() -> None:
    engine = Engine()
    run = engine.attach(gpt().to(torch.bfloat16), "gpt", example_inputs={"input_ids": TOKENS})
    again = engine.replay("gpt")
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}
    assert fingerprint(again) == run.fingerprint


def test_the_attention_that_the_model_computes_with_comes_back() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel._from_config(GPT2Config(**TINY), attn_implementation="eager")
    engine = Engine()
    engine.attach(model, "gpt", example_inputs={"input_ids": TOKENS})
    again: Any = engine.replay("gpt")
    assert again.config._attn_implementation == "eager"


def test_a_backbone_that_computes_attention_in_another_way_comes_back() -> None:
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[12], depths=[1], layer_type="basic", out_features=["stage1"]
    )
    sizes = {"d_model": 12, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "num_queries": 3}
    heads = {"encoder_attention_heads": 3, "decoder_attention_heads": 3}
    config = DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        encoder_layers=1,
        decoder_layers=1,
        **sizes,
        **heads,
    )
    engine = Engine()
    run = engine.attach(DetrForObjectDetection(config), "detr", {"pixel_values": torch.randn(1, 3, 32, 32)})
    assert fingerprint(engine.replay("detr")) == run.fingerprint


def segmenter() -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    sizes = {"hidden_sizes": [8, 12], "num_attention_heads": [2, 3], "decoder_hidden_size": 10}
    config = SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        patch_sizes=[7, 3],
        strides=[4, 2],
        mlp_ratios=[2, 2],
        **sizes,
    )
    return SegformerForSemanticSegmentation(config)


def test_a_model_that_collects_its_hidden_states_by_hooks_can_be_widened_after_it_ran() -> None:
    model, pixels = segmenter(), {"pixel_values": torch.randn(2, 3, 32, 32)}
    model(**pixels)
    run = Engine().attach(model, "segmenter", pixels)
    result = run.surgeon.modify_layer_width(layer_name="decode_head.linear_fuse", new_width=12)
    assert result.success, result.error


def test_a_configuration_with_infinity_comes_back() -> None:
    from transformers import Mamba2Config, Mamba2ForCausalLM

    sizes = {
        "hidden_size": 24,
        "num_heads": 6,
        "head_dim": 8,
        "n_groups": 2,
        "state_size": 5,
        "chunk_size": 4,
    }
    model = Mamba2ForCausalLM(Mamba2Config(vocab_size=101, num_hidden_layers=1, **sizes))
    engine = Engine()
    run = engine.attach(model, "mamba", example_inputs={"input_ids": TOKENS})
    again: Any = engine.replay("mamba")
    assert tuple(again.config.time_step_limit) == (0.0, float("inf"))
    assert fingerprint(again) == run.fingerprint


def test_a_model_that_is_not_what_its_configuration_says_is_refused_at_attach() -> None:
    model: Any = gpt()
    model.transformer.h[1].mlp.act = nn.Sequential(nn.ReLU())
    with pytest.raises(UsageError, match=r"another architecture .* differ: transformer\.h\.1\.mlp\.act"):
        Engine().attach(model, "gpt", example_inputs={"input_ids": TOKENS})


def test_a_subclass_of_the_users_own_needs_a_blueprint_of_its_own() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    class Mine(GPT2LMHeadModel):
        """Of the user's own."""

    with pytest.raises(UsageError, match="Register a function"):
        Engine().attach(Mine(GPT2Config(**TINY)), "gpt", example_inputs={"input_ids": TOKENS})


def test_nobody_else_may_take_the_name_of_a_built_in_blueprint() -> None:
    with pytest.raises(UsageError, match="'transformers' is registered already"):
        blueprint("transformers")(gpt)


@pytest.mark.parametrize(
    "architecture",
    ["AutoModel", "AutoModelForCausalLM", "Trainer", "GPT2Config", "TimmWrapperModel", "os.system", "pipeline",
     "__class__", "GPT2LMHeadModel.from_pretrained", "", None, 7],
)  # fmt: skip
def test_a_name_that_is_no_model_class_of_the_library_is_refused(architecture: Any) -> None:
    with pytest.raises(ReplayError, match="has no model class"):
        build(architecture, {})


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"auto_map": {"AutoModel": "evil.Model"}}, "names code beside a checkpoint"),
        ({"trust_remote_code": True}, "asks for code beside a checkpoint"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "asks for quantized weights"),
        ({"backbone": "resnet50"}, "names another model"),
        ({"attn_implementation": "someone/kernel"}, "belongs beside the config"),
        ({"_attn_implementation": "someone/kernel"}, "internal to the library"),
        ({"_name_or_path": "/home/me/model"}, "names a checkpoint"),
        ({"text_config": {"auto_map": {"AutoModel": "evil.Model"}}}, "names code beside a checkpoint"),
        ({"layers": [{"tokenizer_name_or_path": "someone/model"}]}, "names a checkpoint"),
        ({"text_config": {"model_type": "timm_wrapper"}}, "a wrapper around models of timm"),
        ({1: 2}, "must be a string"),
        ([], "a config is a dictionary"),
    ],
)
def test_a_configuration_that_would_fetch_something_is_refused(config: Any, said: str) -> None:
    with pytest.raises(ReplayError, match=said):
        build("GPT2LMHeadModel", config)


def test_a_kernel_from_the_network_is_refused_as_attention() -> None:
    with pytest.raises(ReplayError, match="attn_implementation is one of eager, sdpa, flex_attention"):
        build("GPT2LMHeadModel", TINY, attn_implementation="someone/kernel")
