"""Surgery while another device than the model's is the default of torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from esper_es import Engine, ModelSurgeon, SurgeryResult

Surgery = Callable[[ModelSurgeon], SurgeryResult]
SURGERIES: dict[str, Surgery] = {
    "wider": lambda s: s.modify_layer_width(layer_name="0", new_width=12),
    "narrower": lambda s: s.modify_layer_width(layer_name="0", new_width=5),
    "a layer more": lambda s: s.add_layer(
        after_layer="1", new_layer={"type": "linear", "in_features": 8, "out_features": 8}, layer_name="new"
    ),
    "a skip": lambda s: s.add_skip_connection(from_layer="0", to_layer="4"),
    "a bridge": lambda s: s.remove_layer(layer_name="2", bridge_strategy="learned"),
}


@pytest.mark.parametrize("surgery", SURGERIES.values(), ids=SURGERIES)
def test_new_tensors_are_where_the_model_is(surgery: Surgery, engine: Engine) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(30, 6)
    run = engine.attach(model, "model", (x,))
    with torch.device("meta"):
        assert surgery(run.surgeon).success
    model(x).sum().backward()
    assert {p.device.type for p in model.parameters()} == {"cpu"}
