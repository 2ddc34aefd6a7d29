"""timm is there for the tests, with or without a torchvision."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from .timm_alone import import_timm

pytestmark = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")


def test_timm_makes_a_model_that_runs() -> None:
    model = import_timm().create_model("resnet18", num_classes=3).eval()
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 3)


def test_nobody_else_sees_a_torchvision_that_is_not_there() -> None:
    import_timm()
    if find_spec("torchvision") is None:
        with pytest.raises(ModuleNotFoundError):
            __import__("torchvision")
