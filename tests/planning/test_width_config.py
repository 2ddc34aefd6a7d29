"""The configuration of a transformers model follows its widths where it can express them, and says where it can't."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from esper_es import Engine, Run, fingerprint

from .transformer_models import GPT2, LLAMA, T5, Transformer, trained


def widened(run: Run, *changes: tuple[str, int, Any]) -> dict[str, Any]:
    """Change widths one after another; return the details of the last one."""
    for layer, width, dimension in changes:
        result = run.surgeon.modify_layer_width(
            layer_name=layer, new_width=width, unit="units", dimension=dimension
        )
        assert result.success, result.error
    return dict(result.details)


EXPRESSED: list[tuple[Transformer, list[tuple[str, int, Any]], dict[str, Any]]] = [
    (GPT2, [(f"transformer.h.{n}.mlp.c_fc", 130, "out") for n in range(2)], {"n_inner": 130}),
    (
        GPT2,
        [
            ("transformer.wte", 40, 1),
            ("transformer.h.0.attn.c_attn", 5, "out"),
            ("transformer.h.1.attn.c_attn", 5, "out"),
        ],
        {"n_embd": 40, "n_head": 5, "n_inner": 128},
    ),
    (
        LLAMA,
        [(f"model.layers.{n}.self_attn.k_proj", 3, "out") for n in range(2)],
        {"num_attention_heads": 6, "num_key_value_heads": 3},
    ),
    (LLAMA, [("model.embed_tokens", 36, "out")], {"hidden_size": 36}),
    (
        T5,
        [
            (f"{part}.{n}.layer.{place}.DenseReluDense.wi", 50, "out")
            for part, place in (("encoder.block", 1), ("decoder.block", 2))
            for n in range(2)
        ],
        {"d_ff": 50},
    ),
]
EXPRESSIBLE = pytest.mark.parametrize(
    ("model", "changes", "values"),
    EXPRESSED,
    ids=[f"{model.name}-{'-'.join(values)}" for model, _, values in EXPRESSED],
)


@EXPRESSIBLE
def test_a_model_built_from_the_updated_configuration_is_the_model(
    model: Transformer, changes: list[Any], values: dict[str, Any], engine: Engine
) -> None:
    run = model.attached(engine)
    trained(run)
    details = widened(run, *changes)
    assert details["config"] | values == details["config"]
    twin: Any = type(run.model)(run.model.config)
    twin.load_state_dict(run.model.state_dict())
    _, inputs = next(run.session.examples.fresh())
    with torch.no_grad():
        assert torch.equal(twin.eval()(**inputs).logits, run.model.eval()(**inputs).logits)


@EXPRESSIBLE
def test_a_configuration_is_replayed_and_rolled_back(
    model: Transformer, changes: list[Any], values: dict[str, Any], engine: Engine
) -> None:
    run = model.attached(engine)
    before, version = run.model.config.to_dict(), run.version
    widened(run, *changes)
    replayed = engine.replay(model.name)
    assert fingerprint(replayed) == run.fingerprint
    assert replayed.config.to_dict() == run.model.config.to_dict() != before
    run.rollback(to_version=version)
    assert run.model.config.to_dict() == before


def test_layers_that_differ_are_named_where_a_configuration_has_one_number_for_all(engine: Engine) -> None:
    details = widened(GPT2.attached(engine), ("transformer.h.0.mlp.c_fc", 130, "out"))
    assert details["config"] == {}
    assert "transformer.h.1.mlp.c_fc.weight [32, 128]" in details["config_note"]


def test_a_stream_that_is_no_multiple_of_the_heads_can_not_be_expressed(engine: Engine) -> None:
    details = widened(GPT2.attached(engine), ("transformer.wte", 33, 1))
    assert (details["config"], "no values" in details["config_note"]) == ({}, True)


def test_a_configuration_that_the_model_computes_with_stays(engine: Engine) -> None:
    details = widened(T5.attached(engine), ("shared", 33, 1))
    assert details["output_difference"] < 4e-7
    assert "would change its outputs" in details["config_note"]
