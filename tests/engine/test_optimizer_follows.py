"""The optimizer follows surgery: survivors keep their state, new entries start well, groups stay in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from models import CONV_NET, NESTED_CNN, NESTED_MLP, Zoolet
from torch import nn
from torch.optim import Optimizer
from training import adam, adamw, attached, momentum, optimizer_of, train_run

from esper_es import Engine, Run

Parameters = Iterable[torch.Tensor]

FAMILIES: dict[str, Callable[[Parameters], Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01),
    "sgd-nesterov": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    "adam-amsgrad": lambda p: torch.optim.Adam(p, amsgrad=True),
    "adam-foreach": lambda p: torch.optim.Adam(p, foreach=True),
    "adam-fused": lambda p: torch.optim.Adam(p, fused=True),
    "adamw-tensor-lr": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01), foreach=False),
    "nadam": lambda p: torch.optim.NAdam(p),
    "radam": lambda p: torch.optim.RAdam(p),
    "adamax": lambda p: torch.optim.Adamax(p),
    "rmsprop": lambda p: torch.optim.RMSprop(p, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p),
    "adadelta": lambda p: torch.optim.Adadelta(p),
    "asgd": lambda p: torch.optim.ASGD(p),
    "rprop": lambda p: torch.optim.Rprop(p),
}


def widened(
    engine: Engine, make: Any, zoolet: Zoolet = NESTED_MLP
) -> tuple[Run, dict[str, Any], dict[str, Any]]:
    """Train, widen layer "0" from 8 to 11, and return the state of its weight before and after."""
    run = attached(engine, zoolet, make)
    train_run(run, zoolet, 3)
    weight = run.model.get_parameter("0.weight")
    before = {
        k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in optimizer_of(run).state[weight].items()
    }
    assert run.surgeon.modify_layer_width(layer_name="0", new_width=11).success
    return run, before, optimizer_of(run).state[weight]


def test_surviving_rows_keep_their_moments(engine: Engine) -> None:
    _, before, after = widened(engine, adam)
    assert torch.equal(after["exp_avg"][:8], before["exp_avg"])
    assert torch.equal(after["exp_avg_sq"][:8], before["exp_avg_sq"])


def test_first_moments_of_new_rows_are_zero(engine: Engine) -> None:
    _, _, after = widened(engine, adam)
    assert not after["exp_avg"][8:].any()


def test_second_moments_of_new_rows_are_cloned_from_a_survivor(engine: Engine) -> None:
    _, before, after = widened(engine, adam)
    assert torch.equal(after["exp_avg_sq"][8:], before["exp_avg_sq"][7:8].expand(3, -1))


def test_a_momentum_buffer_is_gathered_and_new_rows_are_zero(engine: Engine) -> None:
    _, before, after = widened(engine, momentum)
    assert torch.equal(after["momentum_buffer"][:8], before["momentum_buffer"])
    assert not after["momentum_buffer"][8:].any()


def test_step_counts_stay(engine: Engine) -> None:
    _, before, after = widened(engine, adam)
    assert float(after["step"]) == float(before["step"]) == 3.0


def test_a_narrowed_layer_keeps_the_moments_of_the_units_it_keeps(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam)
    train_run(run, NESTED_MLP, 3)
    weight = run.model.get_parameter("0.weight")
    before = optimizer_of(run).state[weight]["exp_avg"].clone()
    result = run.surgeon.modify_layer_width(layer_name="0", new_width=3)
    kept = list(result.details["kept_units"])
    assert torch.equal(optimizer_of(run).state[weight]["exp_avg"], before[kept])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_optimizers_goes_on_after_growing_and_shrinking(family: str, engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, lambda model: FAMILIES[family](list(model.parameters())))
    train_run(run, NESTED_MLP, 2)
    assert run.surgeon.modify_layer_width(layer_name="0", new_width=11).success
    train_run(run, NESTED_MLP)
    assert run.surgeon.modify_layer_width(layer_name="2.0", new_width=5).success
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    train_run(run, NESTED_MLP, 2)
    assert all(not torch.equal(p, before[name]) for name, p in run.model.named_parameters())
    assert all(bool(torch.isfinite(p).all()) for p in run.model.parameters())


def test_an_optimizer_with_one_history_over_all_parameters_is_refused_by_name(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, lambda model: torch.optim.LBFGS(model.parameters()))
    result = run.surgeon.modify_layer_width(layer_name="0", new_width=11)
    assert (result.success, result.check) == (False, "optimizer_state")
    assert "LBFGS" in (result.error or "")


def test_factored_state_that_cannot_be_resized_is_refused_by_name(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, lambda model: torch.optim.Adafactor(model.parameters()))
    train_run(run, NESTED_MLP)
    result = run.surgeon.modify_layer_width(layer_name="0", new_width=11)
    assert (result.success, result.check) == (False, "optimizer_state")
    assert "Adafactor keeps state 'row_var'" in (result.error or "")


def groups_of(run: Run) -> dict[str, int]:
    """Return the group of every parameter by name."""
    index = {id(p): i for i, g in enumerate(optimizer_of(run).param_groups) for p in g["params"]}
    return {name: index[id(parameter)] for name, parameter in run.model.named_parameters()}


@pytest.mark.parametrize("after", ["0", "1", "2.1"])
def test_new_weights_join_those_that_decay_and_new_biases_those_that_do_not(
    after: str, engine: Engine
) -> None:
    run = attached(engine, NESTED_MLP, adamw)
    new = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
    run.surgeon.add_layer(after_layer=after, new_layer=new, layer_name="new")
    found = {name: group for name, group in groups_of(run).items() if ".new." in f".{name}"}
    assert sorted(found.values()) == [0, 1, 1, 1]
    assert all(group == int(not name.endswith("0.weight")) for name, group in found.items())


def test_in_groups_by_depth_new_parameters_join_the_group_of_their_neighbour(engine: Engine) -> None:
    def by_depth(model: nn.Module) -> Optimizer:
        return torch.optim.SGD([{"params": list(child.parameters())} for child in model.children()], lr=0.1)

    run = attached(engine, CONV_NET, by_depth)
    run.surgeon.add_layer(after_layer="conv2", new_layer=nn.Conv2d(6, 6, 1), layer_name="new")
    assert {groups_of(run)[f"new.{name}"] for name in ("weight", "bias")} == {1}


def test_removed_parameters_leave_the_optimizer(engine: Engine) -> None:
    run = attached(engine, NESTED_CNN, adam)
    train_run(run, NESTED_CNN)
    removed = run.model.get_parameter("1.weight")
    assert run.surgeon.remove_layer(layer_name="1").success
    assert removed not in optimizer_of(run).state
    assert all(p is not removed for group in optimizer_of(run).param_groups for p in group["params"])


def test_every_parameter_of_the_model_is_in_the_optimizer_exactly_once_after_surgery(engine: Engine) -> None:
    run = attached(engine, NESTED_CNN, adamw)
    run.surgeon.add_layer(
        after_layer="2", new_layer=nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU()), layer_name="new"
    )
    run.surgeon.remove_layer(layer_name="3.0", bridge_strategy="learned")
    run.seeds.plant("seed", "0")
    run.seeds.germinate("seed", "conv_small")
    members = [id(p) for group in optimizer_of(run).param_groups for p in group["params"]]
    assert sorted(members) == sorted(id(p) for p in run.model.parameters())


def test_the_effects_of_a_surgery_say_what_became_of_the_optimizers_state(engine: Engine) -> None:
    run, _, _ = widened(engine, adam)
    effects = engine.history(run.name)[-1].fact.effects  # type: ignore[union-attr]
    assert effects.optimizer == {"0.weight": "resized", "0.bias": "resized", "2.0.weight": "resized"}


Scheduler = Callable[[Optimizer], Any]

SCHEDULERS: dict[str, Scheduler] = {
    "step": lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.5),
    "one-cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=20),
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, [lambda e: 0.9**e, lambda e: 0.8**e]),
    "sequential": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o,
        [torch.optim.lr_scheduler.LinearLR(o), torch.optim.lr_scheduler.ExponentialLR(o, 0.9)],
        milestones=[2],
    ),
    "warm-restarts": lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "cyclic": lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.01, 0.1, cycle_momentum=False),
}


def rates(run: Run, steps: int) -> list[list[float]]:
    """Take steps of optimizer and scheduler; return the learning rates after each."""
    found = []
    for _ in range(steps):
        train_run(run, NESTED_MLP)
        run.session.live.scheduler.step()
        found.append([float(group["lr"]) for group in optimizer_of(run).param_groups])
    return found


def scheduled(engine: Engine, name: str, scheduler: str) -> Run:
    model = NESTED_MLP.build()
    optimizer = adamw(model)
    return engine.attach(
        model,
        name=name,
        example_inputs=(NESTED_MLP.batch(),),
        optimizer=optimizer,
        scheduler=SCHEDULERS[scheduler](optimizer),
    )


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_schedule_goes_on_as_if_there_had_been_no_surgery(scheduler: str, engine: Engine) -> None:
    operated, left_alone = (scheduled(engine, name, scheduler) for name in ("operated", "left alone"))
    rates(operated, 2)
    assert operated.surgeon.add_layer(after_layer="1", new_layer=nn.Linear(8, 8), layer_name="new").success
    assert rates(operated, 4) == rates(left_alone, 6)[2:]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_rollback_takes_the_schedule_back(scheduler: str, engine: Engine) -> None:
    run = scheduled(engine, "model", scheduler)
    rates(run, 2)
    version = run.capture()
    first = rates(run, 3)
    run.rollback(version)
    assert rates(run, 3) == first


def test_the_gradient_scaler_is_captured_and_rolled_back(engine: Engine) -> None:
    model = NESTED_MLP.build()
    optimizer = adam(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1)

    def step() -> None:
        optimizer.zero_grad()
        scaler.scale(model(NESTED_MLP.batch()).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()

    run = engine.attach(
        model, name="model", example_inputs=(NESTED_MLP.batch(),), optimizer=optimizer, scaler=scaler
    )
    step()
    version, scale = run.capture(), scaler.get_scale()
    step()
    assert scaler.get_scale() == 2 * scale
    run.rollback(version)
    assert scaler.get_scale() == scale
    step()
    assert scaler.get_scale() == 2 * scale


def test_steps_are_counted_by_the_optimizer_itself(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam)
    train_run(run, NESTED_MLP, 3)
    run.step_end()
    assert run.session.step == 3


def test_a_closed_run_counts_no_more_steps(engine: Engine) -> None:
    with attached(engine, NESTED_MLP, adam) as run:
        train_run(run, NESTED_MLP)
        version = run.capture()
    train_run(run, NESTED_MLP)
    assert (run.session.step, run.version) == (1, version)


def test_muon_which_takes_matrices_only_gets_no_bias(engine: Engine) -> None:
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False))
    run = engine.attach(model, "model", (torch.randn(5, 6),), torch.optim.Muon(model.parameters()))
    result = run.surgeon.add_layer(after_layer="1", new_layer=nn.Linear(8, 8), layer_name="new")
    assert (result.success, result.check) == (False, "optimizer_state")


def test_muon_steps_a_new_matrix(engine: Engine) -> None:
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False))
    optimizer = torch.optim.Muon(model.parameters())
    run = engine.attach(model, "model", (torch.randn(5, 6),), optimizer)
    layer = nn.Linear(8, 8, bias=False)
    assert run.surgeon.add_layer(after_layer="1", new_layer=layer, layer_name="new").success
    before = model.get_submodule("new").weight.detach().clone()
    model(torch.randn(5, 6)).square().mean().backward()
    optimizer.step()
    assert not torch.equal(model.get_submodule("new").weight, before)
