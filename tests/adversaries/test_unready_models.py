"""Models that are not ready to be changed, or are called in ways that go around their forward."""

from __future__ import annotations

import warnings
from types import MethodType
from typing import Any

import pytest
import torch
from engine.photograph import differences, photograph
from models import CONV_NET, CUSTOM_MLP
from torch import nn
from torch.func import functional_call, grad, vmap
from training import adam, attached, train_run

from esper_es import Engine, UsageError, blueprint, fingerprint


def test_a_lazy_model_is_to_be_run_before_it_is_attached(engine: Engine) -> None:
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))
    with pytest.raises(UsageError, match="run the model once before it is attached"):
        engine.attach(model, name="model", example_inputs=(torch.randn(4, 6),))


def test_a_lazy_model_that_was_run_is_like_any_other(engine: Engine) -> None:
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))
    model(torch.randn(4, 6))
    run = engine.attach(model, name="model", example_inputs=(torch.randn(4, 6),))
    assert run.surgeon.modify_layer_width(layer_name="0", new_width=12).success
    assert run.surgeon.add_layer(after_layer="0", new_layer=nn.Linear(12, 12), layer_name="new").success
    run.capture()
    assert fingerprint(engine.replay("model")) == run.fingerprint


def test_a_model_on_the_meta_device_is_refused(engine: Engine) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3)).to("meta")
    with pytest.raises(UsageError, match="meta"):
        engine.attach(model, name="model", example_inputs=(torch.randn(4, 6, device="meta"),))


class Quantized(nn.Module):
    """Layers that hold packed integers, between ordinary ones."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.packed = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(8, 8)), {nn.Linear})
        self.leave = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.leave(self.packed(torch.relu(self.enter(x))))
        return y


blueprint("tests/quantized")(Quantized)


@pytest.mark.parametrize("operation", ["remove", "widen", "insert", "skip"])
@pytest.mark.parametrize("layer", ["enter", "packed.0", "leave"])
def test_a_dynamically_quantized_model_is_changed_rightly_or_refused(
    layer: str, operation: str, engine: Engine
) -> None:
    model = Quantized()
    x = torch.randn(4, 6)
    run = engine.attach(model, name="model", example_inputs=(x,), blueprint="tests/quantized")
    before = photograph(run)
    width = 3 if layer == "leave" else 8
    result = {
        "remove": lambda: run.surgeon.remove_layer(layer_name=layer, bridge_strategy="learned"),
        "widen": lambda: run.surgeon.modify_layer_width(layer_name=layer, new_width=16),
        "insert": lambda: run.surgeon.add_layer(
            after_layer=layer, new_layer={"type": "linear", "in_features": width, "out_features": width},
            layer_name="fresh",
        ),
        "skip": lambda: run.surgeon.add_skip_connection(from_layer="enter", to_layer=layer),
    }[operation]()  # fmt: skip
    if result.success:
        assert run.model(x).shape == (4, 3)
    else:
        assert result.check
        assert differences(before, photograph(run)) == []


def changed_run(engine: Engine) -> Any:
    run = attached(engine, CUSTOM_MLP, adam)
    assert run.surgeon.add_layer(
        after_layer="enter", new_layer=nn.Linear(8, 8), layer_name="new", connection_type="residual"
    ).success
    assert run.surgeon.add_skip_connection(
        from_layer="enter", to_layer="leave", connection_type="concat"
    ).success
    train_run(run, CUSTOM_MLP, 2)
    return run


def test_a_changed_model_in_a_functional_call_computes_what_it_does_itself(engine: Engine) -> None:
    run = changed_run(engine)
    x = CUSTOM_MLP.batch()
    tensors = {name: tensor.detach() for name, tensor in run.model.named_parameters()}
    assert torch.equal(functional_call(run.model.eval(), tensors, (x,)), run.model(x))


def test_gradients_of_a_changed_model_by_functional_transforms_are_those_of_autograd(engine: Engine) -> None:
    run = changed_run(engine)
    x = CUSTOM_MLP.batch()
    tensors = {name: tensor.detach() for name, tensor in run.model.named_parameters()}

    def loss(tensors: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = functional_call(run.model, tensors, (x,))
        return made.square().sum()

    run.model.zero_grad()
    run.model(x).square().sum().backward()
    for name, found in grad(loss)(tensors, x).items():
        torch.testing.assert_close(found, run.model.get_parameter(name).grad)
    each = vmap(lambda row: functional_call(run.model, tensors, (row[None],))[0])(x)
    torch.testing.assert_close(each, run.model(x).detach())


def test_a_root_whose_forward_is_bound_to_the_object_is_changed_inside(engine: Engine) -> None:
    run = attached(engine, CONV_NET, adam)
    model: Any = run.model
    own = type(model).forward
    model.forward = MethodType(lambda self, x: own(self, x) * 2.0, model)
    x = CONV_NET.batch()
    with torch.no_grad():
        before = model.eval()(x)
    assert run.surgeon.add_skip_connection(
        from_layer="conv1", to_layer="conv3", connection_type="concat"
    ).success
    with torch.no_grad():
        assert torch.equal(model.eval()(x), before)
    train_run(run, CONV_NET, 2)
    assert bool(model.skip_conv1_to_conv3.projection.weight.any())


def test_a_forward_that_holds_the_live_model_would_run_it_in_place_of_a_copy(engine: Engine) -> None:
    run = attached(engine, CONV_NET)
    model: Any = run.model
    own = model.forward
    model.forward = lambda x: own(x) * 2.0
    before = photograph(run)
    with pytest.raises(UsageError, match=r"bind it with types\.MethodType"):
        run.surgeon.add_skip_connection(from_layer="conv1", to_layer="conv3")
    assert differences(before, photograph(run)) == []
