"""Heads of several kinds, as some go through layers of their own, in a stream as wide as all of them (timm's CoaT)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import nn
from zoo.timm_alone import import_timm

from esper_es import Engine, Run, SurgeryResult, blueprint, fingerprint

from .test_width_head_size import attached, moved, outputs, refusal
from .transformer_models import Transformer, trained

SIZES: Mapping[str, Any] = {
    "img_size": 32,
    "patch_size": 4,
    "serial_depths": (1, 1, 1, 1),
    "mlp_ratios": (2, 2, 2, 2),
    "num_classes": 5,
}
QKV = "serial_blocks2.0.factoratt_crpe.qkv"


@cache
def coat(name: str, window: int = 0, **terms: Any) -> Transformer:
    windows = {window: 8} if window else None

    def build() -> nn.Module:
        made: nn.Module = import_timm().models.coat.CoaT(**SIZES, crpe_window=windows, **terms).train()
        return made

    blueprint(f"tests/width/{name}")(build)
    return Transformer(name, build, lambda: {"x": torch.randn(2, 3, 32, 32)})


LITE = partial(coat, "coat-lite", embed_dims=(16, 24, 40, 48))
WHOLE = partial(coat, "coat", embed_dims=(16, 24, 24, 24), parallel_depth=1)
ONE_KIND = partial(coat, "coat-of-one-kind", embed_dims=(16, 24, 40, 48), window=3)
models = pytest.mark.parametrize("model", [LITE, WHOLE], ids=["lite", "whole"])


def headed(run: Run, number: int) -> SurgeryResult:
    result = run.surgeon.modify_layer_width(layer_name=QKV, new_width=number, unit="heads")
    assert result.success, result.error
    return result


@models
def test_one_more_head_is_of_the_last_kind(model: Any, engine: Engine) -> None:
    run = attached(engine, model())
    headed(run, 9)
    assert list(run.model.crpe2.channel_splits) == [6, 9, 12]


@models
def test_the_stream_grows_with_the_heads(model: Any, engine: Engine) -> None:
    run = attached(engine, model())
    headed(run, 9)
    assert run.model.patch_embed2.proj.out_channels == 27


@models
def test_one_head_less_takes_its_channels_from_its_kind(model: Any, engine: Engine) -> None:
    run = attached(engine, model())
    headed(run, 7)
    assert sum(run.model.crpe2.channel_splits) == 21


def test_heads_of_stages_change_together_that_one_stream_joins(engine: Engine) -> None:
    run = attached(engine, WHOLE())
    headed(run, 9)
    blocks = [run.model.get_submodule(f"serial_blocks{stage}.0.factoratt_crpe") for stage in (1, 2, 3, 4)]
    assert [block.num_heads for block in blocks] == [8, 9, 9, 9]


@models
def test_how_far_the_outputs_move_is_told(model: Any, engine: Engine) -> None:
    run = attached(engine, model())
    before = outputs(run)
    told = headed(run, 9).details
    assert told["function_preserved"] is False
    assert told["output_difference"] == pytest.approx(moved(before, outputs(run)), rel=1)


@pytest.mark.parametrize("number", [9, 7], ids=["more", "less"])
@models
def test_they_train_replay_and_roll_back_exactly(model: Any, number: int, engine: Engine) -> None:
    run = attached(engine, model())
    run.capture()
    old, version, before = run.fingerprint, run.version, outputs(run)
    headed(run, number)
    trained(run, 20)
    run.capture()
    replayed = engine.replay(model().name)
    assert (replayed.esper_replay.exact, fingerprint(replayed)) == (True, run.fingerprint)
    run.rollback(to_version=version)
    assert run.fingerprint == old
    assert moved(before, outputs(run)) == 0.0


def test_another_size_of_heads_of_several_kinds_is_refused_with_these(engine: Engine) -> None:
    error = refusal(attached(engine, LITE()), QKV, 4)
    assert "are of 3 kinds" in error
    assert "crpe2.conv_list.0.weight" in error


def test_a_stream_that_heads_can_not_take_along_is_spoken_of(engine: Engine) -> None:
    error = refusal(attached(engine, ONE_KIND()), QKV, 4)
    assert "for that of its stream" in error
