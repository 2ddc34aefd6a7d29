"""Copies, pickles and compiled versions of a model that hosts skips, inserted layers and seeds."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from models import CONV_NET
from torch import nn
from training import adam, attached, gradients, train_run

from esper_es import AlphaSchedule, Engine, Run
from esper_es.projections.live.describe import describe


@pytest.fixture
def hosted(engine: Engine) -> Run:
    """A run with a skip connection, an inserted layer and an incubating seed under a custom forward."""
    run = attached(engine, CONV_NET, adam)
    assert run.surgeon.add_skip_connection(from_layer="conv1", to_layer="conv3").success
    assert run.surgeon.add_layer(after_layer="conv2", new_layer=nn.Conv2d(6, 6, 1), layer_name="new").success
    run.seeds.plant("seed", "conv3")
    assert run.seeds.germinate("seed", "conv_small").success
    return run


def deep_copied(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model)


def pickled(model: nn.Module) -> nn.Module:
    loaded: nn.Module = pickle.loads(pickle.dumps(model))
    return loaded


def saved(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    loaded: nn.Module = torch.load(buffer, weights_only=False)
    return loaded


COPIES = pytest.mark.parametrize("copied", [deep_copied, pickled, saved], ids=lambda copied: copied.__name__)


@COPIES
def test_a_copy_of_a_hosted_model_computes_the_same(copied, hosted: Run) -> None:  # type: ignore[no-untyped-def]
    x = CONV_NET.batch()
    assert torch.equal(copied(hosted.model)(x), hosted.model(x))


@COPIES
def test_a_copy_of_a_hosted_model_has_the_same_architecture(copied, hosted: Run) -> None:  # type: ignore[no-untyped-def]
    assert describe(copied(hosted.model)).fingerprint == hosted.architecture.fingerprint


@COPIES
def test_a_copy_shares_neither_tensors_nor_the_bus(copied, hosted: Run) -> None:  # type: ignore[no-untyped-def]
    x = CONV_NET.batch()
    expected = hosted.model(x)
    other = copied(hosted.model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2)
    other(x)
    assert torch.equal(hosted.model(x), expected)
    assert other._esper_bus is not hosted.model._esper_bus


@COPIES
def test_a_copy_made_between_two_forwards_carries_no_activations(copied, hosted: Run) -> None:  # type: ignore[no-untyped-def]
    hosted.model(CONV_NET.batch())
    assert copied(hosted.model)._esper_bus.is_empty


def test_a_copy_made_before_a_surgery_does_not_see_it(hosted: Run) -> None:
    before = copy.deepcopy(hosted.model)
    hosted.surgeon.modify_layer_width(layer_name="conv1", new_width=9)
    assert before.get_submodule("conv1").out_channels == 6
    assert before(CONV_NET.batch()).shape == (4, 10)


def test_surgery_goes_on_after_the_model_was_copied(hosted: Run) -> None:
    copy.deepcopy(hosted.model)
    assert hosted.surgeon.modify_layer_width(layer_name="conv1", new_width=9).success
    train_run(hosted, CONV_NET)


@pytest.mark.slow
def test_a_compiled_model_follows_surgery_and_rollback_without_graph_breaks(engine: Engine) -> None:
    torch._dynamo.reset()
    run = attached(engine, CONV_NET, adam)
    x = CONV_NET.batch()
    compiled = torch.compile(run.model, fullgraph=True, backend="eager")

    def agrees() -> bool:
        return torch.equal(compiled(x), run.model(x))

    assert agrees()
    born = run.version
    run.surgeon.add_skip_connection(from_layer="conv1", to_layer="conv3")
    assert agrees()
    run.seeds.plant("seed", "conv2")
    run.seeds.germinate("seed", "conv_small")
    gradients(run.model, x)
    assert agrees()
    run.seeds.advance("seed")
    run.epoch_end()
    run.seeds.advance("seed", schedule=AlphaSchedule(epochs=2))
    run.epoch_end()
    assert agrees()
    run.surgeon.modify_layer_width(layer_name="conv1", new_width=9)
    assert agrees()
    run.rollback(born)
    assert agrees()


@pytest.mark.slow
def test_an_alpha_ramp_costs_no_further_compilation(engine: Engine) -> None:
    torch._dynamo.reset()
    run = attached(engine, CONV_NET)
    run.seeds.plant("seed", "conv2")
    run.seeds.germinate("seed", "conv_small")
    run.seeds.advance("seed")
    run.epoch_end()
    run.seeds.advance("seed", schedule=AlphaSchedule(epochs=10))
    run.epoch_end()
    compiled = torch.compile(run.model, fullgraph=True, backend="eager")
    x = CONV_NET.batch()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(4):
            assert torch.equal(compiled(x), run.model(x))
            run.epoch_end()
