"""Widths of layers under spectral norm: the vectors that estimate the norm follow, and the norm stays as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm

from esper_es import Engine, ModelSurgeon, blueprint, fingerprint

Norm = Callable[[nn.Module], nn.Module]

NORMS = pytest.mark.parametrize("norm", [parametrizations.spectral_norm, spectral_norm], ids=["new", "old"])


def linears(norm: Norm) -> nn.Sequential:
    return nn.Sequential(
        norm(nn.Linear(5, 8)), nn.ReLU(), norm(nn.Linear(8, 7)), nn.ReLU(), norm(nn.Linear(7, 2))
    )


def convolutions(norm: Norm) -> nn.Sequential:
    """The channels of a transposed convolution are the second dimension of its weight."""
    return nn.Sequential(
        norm(nn.Conv2d(3, 8, 3)),
        nn.ReLU(),
        norm(nn.ConvTranspose2d(8, 7, 3)),
        nn.ReLU(),
        norm(nn.Conv2d(7, 2, 3)),
    )


def trained(model: nn.Module, x: Tensor) -> nn.Module:
    """Return the model after some steps, in which the vectors come near what they estimate."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        torch.autograd.backward(model.train()(x).square().mean())
        optimizer.step()
    optimizer.zero_grad()
    return model.eval()


def inputs(build: Callable[[Norm], nn.Module]) -> Tensor:
    return torch.randn(4, 5) if build is linears else torch.randn(2, 3, 9, 9)


def muted(model: nn.Module, reader: str, units: int, kept: tuple[int, ...], x: Tensor) -> Tensor:
    """Return the outputs while a layer reads none of its units but those kept."""
    mask = torch.zeros(units)
    mask[list(kept)] = 1
    mask = mask.view(1, -1, *[1] * (x.ndim - 2))
    hook = model.get_submodule(reader).register_forward_pre_hook(lambda _, args: (args[0] * mask,))
    with torch.no_grad():
        found: Tensor = model(x)
    hook.remove()
    return found


@NORMS
@pytest.mark.parametrize("build", [linears, convolutions])
@pytest.mark.parametrize("layer", ["0", "2"])
@pytest.mark.parametrize("initialization", ["function_preserving", "zeros", "net2wider"])
def test_a_wider_layer_computes_what_it_did(
    norm: Norm, build: Callable[[Norm], nn.Module], layer: str, initialization: str
) -> None:
    x = inputs(build)
    model = trained(build(norm), x)
    before = model(x)
    result = ModelSurgeon(example_inputs=(x,)).modify_layer_width(model, layer, 11, initialization)
    assert result.success, result.error
    torch.testing.assert_close(model(x), before)


@NORMS
@pytest.mark.parametrize("build", [linears, convolutions])
@pytest.mark.parametrize(("layer", "reader", "units"), [("0", "2", 8), ("2", "4", 7)])
def test_what_stays_of_a_narrower_layer_computes_what_it_did(
    norm: Norm, build: Callable[[Norm], nn.Module], layer: str, reader: str, units: int
) -> None:
    x = inputs(build)
    model = trained(build(norm), x)
    untouched = build(norm).eval()
    untouched.load_state_dict(model.state_dict())
    result = ModelSurgeon(example_inputs=(x,)).modify_layer_width(model, layer, 5)
    assert result.success, result.error
    expected = muted(untouched, reader, units, result.details["kept_units"], x)
    torch.testing.assert_close(model(x), expected)


@NORMS
def test_the_next_step_in_training_estimates_the_norm_of_the_new_weight(norm: Norm) -> None:
    x = torch.randn(4, 5)
    model = trained(linears(norm), x)
    ModelSurgeon(example_inputs=(x,)).modify_layer_width(model, "2", 4)
    for _ in range(100):
        model.train()(x)
    largest = torch.linalg.matrix_norm(model.get_submodule("2").weight.detach(), 2)
    torch.testing.assert_close(largest, torch.tensor(1.0))


@NORMS
def test_units_in_which_the_norm_does_not_lie_are_not_left_alone(norm: Norm) -> None:
    layer = nn.Linear(5, 4)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight.fill_diagonal_(1e-6)
        layer.weight[3, 3] = 1.0
    x = torch.randn(4, 5)
    model = nn.Sequential(norm(layer), nn.ReLU(), nn.Linear(4, 2))
    for _ in range(30):
        model.train()(x)
    result = ModelSurgeon(example_inputs=(x,)).modify_layer_width(
        model.eval(), "0", 3, importance=lambda *_: torch.tensor([4.0, 3.0, 2.0, 1.0])
    )
    assert result.check == "spectral_norm"


@NORMS
def test_a_changed_norm_is_replayed_and_rolled_back(norm: Norm, engine: Engine) -> None:
    x = torch.randn(4, 5)
    name = f"tests/spectral/{norm.__module__}"
    blueprint(name)(lambda: linears(norm))
    model = trained(linears(norm), x)
    run = engine.attach(model, "model", example_inputs=(x,), blueprint=name)
    before = run.state_fingerprint
    result = run.surgeon.modify_layer_width(layer_name="2", new_width=5)
    assert result.success, result.error
    assert fingerprint(engine.replay("model")) == run.fingerprint
    assert result.undo_version is not None
    run.rollback(result.undo_version)
    assert run.state_fingerprint == before


@NORMS
def test_a_model_in_training_is_not_a_step_further_for_having_been_looked_at(norm: Norm) -> None:
    x = torch.randn(4, 5)
    model = trained(linears(norm), x).train()
    before = {name: tensor.clone() for name, tensor in model.named_buffers()}
    result = ModelSurgeon(example_inputs=(x,)).modify_layer_width(model, "2", 11)
    assert result.success, result.error
    after = dict(model.named_buffers())
    assert all(torch.equal(after[name][: len(tensor)], tensor) for name, tensor in before.items())


@NORMS
def test_looking_at_a_model_leaves_it_in_training(norm: Norm) -> None:
    x = torch.randn(4, 5)
    model = trained(linears(norm), x).train()
    ModelSurgeon(example_inputs=(x,)).modify_layer_width(model, "2", 11)
    assert all(module.training for module in model.modules())


@NORMS
def test_a_layer_of_a_model_in_training_is_widened_without_a_change(norm: Norm) -> None:
    x = torch.randn(4, 5)
    model = trained(linears(norm), x)
    before = model(x)
    ModelSurgeon(example_inputs=(x,)).modify_layer_width(model.train(), "2", 11)
    torch.testing.assert_close(model.eval()(x), before)
