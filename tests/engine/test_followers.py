"""Averages of the weights (EMA, SWA) that change along with the model."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from models import CONV_NET, NESTED_MLP, TIED_NET, Zoolet
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from training import adam, attached, optimizer_of, train_run

from esper_es import AlphaSchedule, Engine, Run, SurgeryResult, UsageError, failpoints
from esper_es.projections.live.describe import describe


def ema_of(model: nn.Module) -> AveragedModel:
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)


class HoldsCopy(nn.Module):
    """What timm's and others' averages look like."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(model).eval().requires_grad_(False)


AVERAGES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "AveragedModel": ema_of,
    "a deep copy": copy.deepcopy,
    "a holder of one": HoldsCopy,
}


def trained(run: Run, average: nn.Module, zoolet: Zoolet, steps: int = 2) -> None:
    for _ in range(steps):
        train_run(run, zoolet)
        if isinstance(average, AveragedModel):
            average.update_parameters(run.model)


def copy_in(average: nn.Module) -> nn.Module:
    held = average._modules.get("module")
    return average if held is None else held


SURGERIES: dict[str, Callable[[Run], SurgeryResult]] = {
    "wider": lambda run: run.surgeon.modify_layer_width(layer_name="conv1", new_width=9),
    "narrower": lambda run: run.surgeon.modify_layer_width(layer_name="conv1", new_width=4),
    "insertion": lambda run: run.surgeon.add_layer(
        after_layer="conv1", new_layer=nn.Conv2d(6, 6, 1), layer_name="new", connection_type="residual"
    ),
    "removal": lambda run: run.surgeon.remove_layer(layer_name="conv2"),
    "skip": lambda run: run.surgeon.add_skip_connection(from_layer="conv1", to_layer="conv3"),
}


@pytest.mark.parametrize("surgery", SURGERIES)
@pytest.mark.parametrize("kind", AVERAGES)
def test_an_average_has_the_models_structure_after_a_surgery(kind: str, surgery: str, engine: Engine) -> None:
    run = attached(engine, CONV_NET, adam)
    average = AVERAGES[kind](run.model)
    run.follow(average)
    trained(run, average, CONV_NET)
    assert SURGERIES[surgery](run).success
    assert describe(copy_in(average)).fingerprint == run.architecture.fingerprint


@pytest.mark.parametrize("surgery", SURGERIES)
def test_an_average_goes_on_averaging_after_a_surgery(surgery: str, engine: Engine) -> None:
    run = attached(engine, CONV_NET, adam)
    average = ema_of(run.model)
    run.follow(average)
    trained(run, average, CONV_NET)
    SURGERIES[surgery](run)
    before = [p.detach().clone() for p in average.module.parameters()]
    train_run(run, CONV_NET)
    average.update_parameters(run.model)
    expected = [0.9 * b + 0.1 * p for b, p in zip(before, run.model.parameters(), strict=True)]
    torch.testing.assert_close(list(average.module.parameters()), [e.detach() for e in expected])


def test_entries_that_stay_keep_their_average_and_new_ones_begin_like_the_models(engine: Engine) -> None:
    run = attached(engine, CONV_NET, adam)
    average = ema_of(run.model)
    run.follow(average)
    trained(run, average, CONV_NET)
    weight = average.module.get_parameter("conv1.weight")
    before = weight.detach().clone()
    run.surgeon.modify_layer_width(layer_name="conv1", new_width=9)
    live = run.model.get_parameter("conv1.weight")
    assert torch.equal(weight[:6], before)
    assert torch.equal(weight[6:], live[6:])
    assert not torch.equal(weight[:6], live[:6])


def test_a_seed_lives_in_the_average_too(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam)
    average = ema_of(run.model)
    run.follow(average)
    run.seeds.plant("seed", "0")
    run.seeds.germinate("seed", "lora")
    run.seeds.advance("seed")
    trained(run, average, NESTED_MLP)
    run.epoch_end()
    run.seeds.advance("seed", schedule=AlphaSchedule(epochs=2))
    run.epoch_end()
    assert float(average.module.get_buffer("seed.alpha")) == 0.5
    run.epoch_end()
    run.epoch_end()
    assert run.seeds.fossilize("seed", evidence={"contribution": 0.1}).success
    assert describe(average.module).fingerprint == run.architecture.fingerprint


def test_a_rollback_starts_the_average_anew(engine: Engine) -> None:
    run = attached(engine, CONV_NET, adam)
    average = ema_of(run.model)
    run.follow(average)
    undo = run.surgeon.modify_layer_width(layer_name="conv1", new_width=9).undo_version
    run.surgeon.add_skip_connection(from_layer="conv1", to_layer="conv3")
    trained(run, average, CONV_NET)
    assert undo is not None
    assert run.rollback(undo).success
    assert describe(average.module).fingerprint == run.architecture.fingerprint
    assert all(torch.equal(average.module.state_dict()[k], v) for k, v in run.model.state_dict().items())
    assert int(average.n_averaged) == 0
    trained(run, average, CONV_NET)


def test_a_rollback_of_a_rollback_brings_structure_back_in_the_average_too(engine: Engine) -> None:
    run = attached(engine, TIED_NET, adam)
    average = ema_of(run.model)
    run.follow(average)
    born = run.version
    run.surgeon.modify_layer_width(layer_name="shared", new_width=9)
    wide = run.version
    run.rollback(born)
    run.rollback(wide)
    assert describe(average.module).fingerprint == run.architecture.fingerprint


def test_an_average_without_gradients_gets_none(engine: Engine) -> None:
    run = attached(engine, CONV_NET, adam)
    average = HoldsCopy(run.model)
    run.follow(average)
    SURGERIES["insertion"](run)
    assert not any(p.requires_grad for p in average.parameters())
    assert not any(part.training for part in average.module.modules())


def test_parameters_of_an_average_stay_the_same_objects(engine: Engine) -> None:
    run = attached(engine, CONV_NET, adam)
    average = ema_of(run.model)
    run.follow(average)
    before = list(average.parameters())
    SURGERIES["wider"](run)
    assert all(a is b for a, b in zip(before, average.parameters(), strict=True))


@pytest.mark.parametrize("point", ["operation.applied", "ledger.projected"])
def test_a_surgery_that_breaks_leaves_the_average_as_it_was(point: str, engine: Engine) -> None:
    run = attached(engine, CONV_NET, adam)
    average = ema_of(run.model)
    run.follow(average)
    trained(run, average, CONV_NET)
    before = copy.deepcopy(average.state_dict())
    with failpoints.raising(point, OSError("no")), pytest.raises(OSError, match="no"):
        SURGERIES["wider"](run)
    after = average.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_a_rollback_that_breaks_leaves_the_average_as_it_was(engine: Engine) -> None:
    run = attached(engine, CONV_NET, adam)
    average = ema_of(run.model)
    run.follow(average)
    SURGERIES["wider"](run)
    trained(run, average, CONV_NET)
    before = copy.deepcopy(average.state_dict())
    with failpoints.raising("restore.applied", OSError("no")), pytest.raises(OSError, match="no"):
        run.rollback(2)
    assert all(torch.equal(average.state_dict()[key], before[key]) for key in before)


def test_an_average_of_another_structure_is_refused(engine: Engine) -> None:
    run = attached(engine, CONV_NET, adam)
    average = ema_of(run.model)
    SURGERIES["wider"](run)
    with pytest.raises(UsageError, match=r"must have the structure of the model.*'conv1'"):
        run.follow(average)


def test_the_model_itself_is_no_average_of_it(engine: Engine) -> None:
    run = attached(engine, CONV_NET, adam)
    with pytest.raises(UsageError, match="must be a copy"):
        run.follow(run.model)


def test_what_is_no_module_can_not_follow(engine: Engine) -> None:
    run = attached(engine, CONV_NET, adam)
    with pytest.raises(UsageError, match=r"takes an nn\.Module"):
        run.follow(run.model.state_dict())  # type: ignore[arg-type]


def test_an_average_that_was_changed_by_itself_is_named(engine: Engine) -> None:
    run = attached(engine, CONV_NET, adam)
    average = copy.deepcopy(run.model)
    run.follow(average)
    average.conv1 = nn.Identity()
    with pytest.raises(UsageError, match=r"changed by itself: 'conv1'"):
        SURGERIES["wider"](run)


def test_what_no_longer_follows_stays_as_it_is(engine: Engine) -> None:
    run = attached(engine, CONV_NET, adam)
    average = ema_of(run.model)
    run.follow(average)
    run.unfollow(average)
    SURGERIES["wider"](run)
    assert average.module.get_parameter("conv1.weight").shape[0] == 6
    with pytest.raises(UsageError, match="does not follow"):
        run.unfollow(average)


def test_the_optimizer_does_not_take_the_average_in(engine: Engine) -> None:
    run = attached(engine, CONV_NET, adam)
    average = ema_of(run.model)
    run.follow(average)
    SURGERIES["insertion"](run)
    members = {id(p) for group in optimizer_of(run).param_groups for p in group["params"]}
    assert members == {id(p) for p in run.model.parameters()}
