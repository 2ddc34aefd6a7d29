"""Models of ``timm`` are rebuilt from the log alone, and the log can ask the library for nothing else."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from zoo.timm_alone import import_timm

from esper_es import Engine, ReplayError, UsageError, fingerprint
from esper_es.domain.facts import ModelRegistered
from esper_es.projections.live.timm_models import LOADING, build

pytestmark = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")

IMAGES = torch.ones(2, 3, 32, 32)
TINY_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}


def made(name: str, **arguments: Any) -> Any:
    return import_timm().create_model(name, **arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet10t", {}),
        ("resnet10t.c3_in1k", {"num_classes": 3}),
        ("vit_tiny_patch16_224", TINY_VIT),
        ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 20)}),
    ],
)
def test_a_model_comes_back_by_the_arguments_that_made_it(name: str, arguments: dict[str, Any]) -> None:
    engine = Engine()
    run = engine.attach(made(name, **arguments), "model", example_inputs=(IMAGES,))
    fact = engine.history("model")[0].fact
    assert isinstance(fact, ModelRegistered)
    assert fact.base.blueprint == "timm"
    assert fingerprint(engine.replay("model")) == run.fingerprint


def test_a_new_head_is_seen() -> None:
    model = made("resnet10t")
    model.reset_classifier(7)
    engine = Engine()
    run = engine.attach(model, "model", example_inputs=(IMAGES,))
    assert fingerprint(engine.replay("model")) == run.fingerprint


def test_arguments_that_no_log_can_hold_are_refused_at_attach() -> None:
    model = made("vit_tiny_patch16_224", **TINY_VIT, norm_layer=torch.nn.LayerNorm)
    with pytest.raises(UsageError, match=r"not JSON .* register a function that builds it"):
        Engine().attach(model, "model", example_inputs=(IMAGES,))


def test_a_model_that_is_not_what_its_arguments_say_is_refused_at_attach() -> None:
    model = made("resnet10t")
    model.fc = torch.nn.Sequential(torch.nn.Linear(512, 4))
    with pytest.raises(UsageError, match="another architecture"):
        Engine().attach(model, "model", example_inputs=(IMAGES,))


@pytest.mark.parametrize(
    "name", ["hf-hub:timm/resnet18", "local-dir:/tmp", "/tmp/model", "resnet18.nobody", "resnet", "", None, 3]
)
def test_a_name_that_is_no_model_of_the_library_is_refused(name: Any) -> None:
    import_timm()
    with pytest.raises(ReplayError, match="has no model"):
        build(name)


@pytest.mark.parametrize("argument", LOADING)
def test_arguments_that_load_weights_are_refused(argument: str) -> None:
    import_timm()
    with pytest.raises(ReplayError, match="holds the weights themselves"):
        build("resnet10t", **{argument: True})
