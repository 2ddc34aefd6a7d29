"""A seed's whole life through the engine."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from models import CONV_NET, NESTED_CNN, NESTED_MLP, Zoolet
from torch import nn
from training import adam, attached, gradients, part_of, train_run

from esper_es import AlphaSchedule, Engine, Run, SurgeryResult, UsageError, fingerprint
from esper_es.projections.live.describe import describe
from esper_es.projections.live.modules import SeedSlot

PLACES = [(NESTED_MLP, "0", "mlp"), (NESTED_CNN, "3", "conv_small"), (CONV_NET, "conv2", "lora")]
EVERYWHERE = pytest.mark.parametrize(
    ("zoolet", "layer", "kernel"), PLACES, ids=lambda value: getattr(value, "name", value)
)


def germinated(engine: Engine, zoolet: Zoolet, layer: str, kernel: str) -> Run:
    run = attached(engine, zoolet, adam)
    assert run.seeds.plant("seed", layer).success
    assert run.seeds.germinate("seed", kernel).success
    return run


def blending(engine: Engine, zoolet: Zoolet = NESTED_MLP, layer: str = "0", kernel: str = "mlp") -> Run:
    """A run whose seed has begun a ramp over two epochs to one half, after some training."""
    run = germinated(engine, zoolet, layer, kernel)
    run.seeds.advance("seed")
    train_run(run, zoolet, 3)
    run.epoch_end()
    assert run.seeds.advance("seed", schedule=AlphaSchedule(epochs=2, target=0.5)).success
    return run


def holding(engine: Engine, zoolet: Zoolet = NESTED_MLP, layer: str = "0", kernel: str = "mlp") -> Run:
    run = blending(engine, zoolet, layer, kernel)
    run.epoch_end()
    run.epoch_end()
    assert run.seeds["seed"].stage == "HOLDING"
    run.epoch_end()
    return run


def slot_of(run: Run) -> SeedSlot:
    path = run.seeds["seed"].path
    assert path is not None
    slot = part_of(run, path)
    assert isinstance(slot, SeedSlot)
    return slot


@EVERYWHERE
def test_a_dormant_seed_costs_no_module(zoolet: Zoolet, layer: str, kernel: str, engine: Engine) -> None:
    run = attached(engine, zoolet)
    before = (fingerprint(run.model), list(run.model.state_dict()))
    assert run.seeds.plant("seed", layer).success
    assert (fingerprint(run.model), list(run.model.state_dict())) == before


@EVERYWHERE
def test_while_it_incubates_the_output_is_the_same_byte_for_byte(
    zoolet: Zoolet, layer: str, kernel: str, engine: Engine
) -> None:
    run = attached(engine, zoolet)
    without, x = copy.deepcopy(run.model), zoolet.batch()
    run.seeds.plant("seed", layer)
    run.seeds.germinate("seed", kernel)
    with torch.no_grad():
        for parameter in slot_of(run).parameters():
            parameter.normal_()
    for training in (True, False):
        assert torch.equal(run.model.train(training)(x), without.train(training)(x))


@EVERYWHERE
def test_while_it_incubates_its_parameters_receive_gradients(
    zoolet: Zoolet, layer: str, kernel: str, engine: Engine
) -> None:
    run = germinated(engine, zoolet, layer, kernel)
    train_run(run, zoolet)
    gradients(run.model, zoolet.batch())
    assert all(p.grad is not None and bool(p.grad.any()) for p in slot_of(run).parameters())


@EVERYWHERE
def test_while_it_incubates_the_other_parameters_receive_the_gradients_they_would_without_it(
    zoolet: Zoolet, layer: str, kernel: str, engine: Engine
) -> None:
    run = germinated(engine, zoolet, layer, kernel)
    x = zoolet.batch()
    gradients(run.model, x)
    found = {n: p.grad for n, p in run.model.named_parameters() if "seed" not in n}
    run.seeds.cull("seed")
    run.model.zero_grad()
    gradients(run.model, x)
    assert all(torch.equal(run.model.get_parameter(n).grad, g) for n, g in found.items())  # type: ignore[arg-type]


@EVERYWHERE
def test_a_culled_seed_leaves_no_trace(zoolet: Zoolet, layer: str, kernel: str, engine: Engine) -> None:
    run = attached(engine, zoolet, adam)
    before = (
        describe(run.model).fingerprint,
        list(run.model.state_dict()),
        [type(part) for part in run.model.modules()],
    )
    run.seeds.plant("seed", layer)
    run.seeds.germinate("seed", kernel)
    train_run(run, zoolet)
    assert run.seeds.cull("seed").success
    after = (
        describe(run.model).fingerprint,
        list(run.model.state_dict()),
        [type(part) for part in run.model.modules()],
    )
    assert after == before


def test_alpha_follows_its_schedule_epoch_by_epoch(engine: Engine) -> None:
    run = blending(engine)
    alphas = []
    for _ in range(3):
        run.epoch_end()
        alphas.append((run.seeds["seed"].alpha, float(slot_of(run).alpha)))
    assert alphas == [(0.25, 0.25), (0.5, 0.5), (0.5, 0.5)]


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.5, 1.0])
def test_a_blending_slot_adds_alpha_times_its_branch_and_nothing_else(alpha: float, engine: Engine) -> None:
    run = blending(engine)
    assert run.seeds.set_alpha("seed", alpha).success
    slot, x = slot_of(run).eval(), torch.randn(5, 8)
    assert torch.equal(slot(x), x + torch.tensor(alpha) * slot.kernel(x))


def test_at_alpha_zero_a_branch_that_is_not_finite_does_not_leak(engine: Engine) -> None:
    run = blending(engine)
    assert run.seeds["seed"].alpha == 0.0
    with torch.no_grad():
        for parameter in slot_of(run).parameters():
            parameter.fill_(float("nan"))
    x = NESTED_MLP.batch()
    assert bool(torch.isfinite(run.model.eval()(x)).all())
    assert bool(torch.isfinite(run.model.train()(x)).all())


def test_alpha_set_by_hand_back_to_zero_takes_the_branch_out(engine: Engine) -> None:
    run = holding(engine)
    run.seeds.blend("seed", AlphaSchedule(epochs=5))
    x = NESTED_MLP.batch()
    with slot_of(run).muted():
        without = run.model.eval()(x)
    assert not torch.equal(run.model(x), without)
    assert run.seeds.set_alpha("seed", 0.0).success
    assert torch.equal(run.model(x), without)


def test_a_muted_seed_measures_what_it_contributes(engine: Engine) -> None:
    run = holding(engine)
    x = NESTED_MLP.batch()
    with_seed = run.model.eval()(x)
    with run.seeds.muted("seed"):
        without = run.model(x)
    assert not torch.equal(with_seed, without)
    assert torch.equal(run.model(x), with_seed)


def test_a_fossilized_seed_is_an_ordinary_layer_that_computes_the_same(engine: Engine) -> None:
    run = holding(engine)
    x = NESTED_MLP.batch()
    expected = run.model.eval()(x)
    result = run.seeds.fossilize("seed", evidence={"contribution": 0.1})
    assert result.success
    torch.testing.assert_close(run.model(x), expected)
    assert run.architecture.slots == ()
    assert not any(isinstance(part, SeedSlot) for part in run.model.modules())


def test_a_fossilized_layer_keeps_its_parameters_and_their_optimizer_state(engine: Engine) -> None:
    run = holding(engine)
    train_run(run, NESTED_MLP)
    parameters = {id(p) for p in slot_of(run).parameters()}
    run.seeds.fossilize("seed", evidence={"contribution": 0.1})
    optimizer = run.session.live.optimizer
    assert optimizer is not None
    kept = part_of(run, "seed").parameters()
    assert {id(p) for p in kept} == parameters
    assert parameters <= {id(p) for p in optimizer.state}


def test_a_fossilized_seed_that_adds_nothing_leaves_nothing(engine: Engine) -> None:
    run = attached(engine, NESTED_MLP, adam)
    before = describe(run.model).fingerprint
    run.seeds.plant("seed", "0")
    run.seeds.germinate("seed", "noop")
    run.seeds.advance("seed")
    run.epoch_end()
    run.seeds.advance("seed", schedule=AlphaSchedule(epochs=1))
    run.epoch_end()
    run.epoch_end()
    assert run.seeds.fossilize("seed", evidence={"contribution": 0.0}).success
    assert describe(run.model).fingerprint == before


def test_a_fossilized_layer_can_be_operated_on(engine: Engine) -> None:
    run = holding(engine)
    run.seeds.fossilize("seed", evidence={"contribution": 0.1})
    assert run.surgeon.modify_layer_width(layer_name="seed.body.1", new_width=10).success
    assert run.surgeon.remove_layer(layer_name="seed").success


def test_a_culled_seed_grows_again_after_its_embargo(engine: Engine) -> None:
    run = germinated(engine, NESTED_MLP, "0", "lora")
    run.seeds.cull("seed")
    assert run.seeds.germinate("seed", "lora").check == "lifecycle"
    for _ in range(8):
        run.epoch_end()
    assert run.seeds["seed"].stage == "DORMANT"
    assert run.seeds.germinate("seed", "mlp").success


def test_what_feeds_a_resting_seed_can_be_widened_and_the_seed_follows(engine: Engine) -> None:
    run = germinated(engine, NESTED_MLP, "1", "mlp")
    x = NESTED_MLP.batch()
    before = run.model.eval()(x)
    assert run.surgeon.modify_layer_width(layer_name="0", new_width=12).success
    torch.testing.assert_close(run.model(x), before)
    train_run(run, NESTED_MLP)
    run.seeds.advance("seed")
    run.epoch_end()
    run.seeds.advance("seed", schedule=AlphaSchedule(epochs=1))
    run.epoch_end()
    train_run(run, NESTED_MLP)


REACHING_IN: dict[str, Callable[[Run], SurgeryResult]] = {
    "the slot": lambda run: run.surgeon.remove_layer(layer_name="2.seed"),
    "what holds it": lambda run: run.surgeon.remove_layer(layer_name="2"),
    "its kernel": lambda run: run.surgeon.remove_layer(layer_name="2.seed.kernel.3"),
    "behind its kernel": lambda run: run.surgeon.add_layer(
        after_layer="2.seed.kernel.3", new_layer=nn.ReLU(), layer_name="new"
    ),
}


@pytest.mark.parametrize("what", REACHING_IN)
def test_surgery_does_not_reach_into_a_seed_that_is_alive(what: str, engine: Engine) -> None:
    run = germinated(engine, NESTED_MLP, "2.0", "mlp")
    result = REACHING_IN[what](run)
    assert (result.success, result.check) == (False, "seed")
    assert "'2.seed'" in (result.error or "")


def test_a_dormant_seed_whose_layer_was_removed_germinates_in_its_place(engine: Engine) -> None:
    run = attached(engine, NESTED_CNN)
    run.seeds.plant("seed", "2")
    run.surgeon.remove_layer(layer_name="2")
    assert run.seeds.germinate("seed", "conv_small").success


ILLEGAL: dict[str, tuple[Callable[[Run], SurgeryResult], str]] = {
    "a second seed of a name": (lambda run: run.seeds.plant("seed", "1"), "seed_taken"),
    "an unknown layer": (lambda run: run.seeds.plant("other", "nowhere"), "unknown_layer"),
    "an unknown seed": (lambda run: run.seeds.advance("other"), "unknown_seed"),
    "alpha while incubating": (lambda run: run.seeds.set_alpha("seed", 0.5), "lifecycle"),
    "fossilizing while incubating": (lambda run: run.seeds.fossilize("seed"), "lifecycle"),
    "a second germination": (lambda run: run.seeds.germinate("seed", "mlp"), "lifecycle"),
    "a convolution on vectors": (lambda run: planted_and_germinated(run, "conv_small"), "kernel"),
}


def planted_and_germinated(run: Run, kernel: str) -> SurgeryResult:
    run.seeds.plant("other", "1")
    return run.seeds.germinate("other", kernel)


@pytest.mark.parametrize("what", ILLEGAL)
def test_what_the_lifecycle_or_a_kernel_forbids_is_refused(what: str, engine: Engine) -> None:
    run = germinated(engine, NESTED_MLP, "0", "lora")
    act, check = ILLEGAL[what]
    result = act(run)
    assert (result.success, result.check) == (False, check)


def test_a_gate_without_evidence_is_refused_unless_it_is_overridden(engine: Engine) -> None:
    run = holding(engine)
    assert run.seeds.fossilize("seed").check == "G5"
    assert run.seeds.fossilize("seed", override="the review board said so").success
    assert engine.history("model")[-1].fact.override == "the review board said so"  # type: ignore[union-attr]


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan"), True, "half"])
def test_an_alpha_that_is_no_share_is_misuse(alpha: object, engine: Engine) -> None:
    run = blending(engine)
    version = run.version
    with pytest.raises(UsageError, match="alpha must be a number"):
        run.seeds.set_alpha("seed", alpha)  # type: ignore[arg-type]
    assert run.version == version


def test_a_seed_blends_on_after_the_process_was_restarted(url: str) -> None:
    with Engine(url) as engine:
        run = blending(engine)
        run.epoch_end()
        run.capture()
    with Engine(url) as engine:
        run = attached(engine, NESTED_MLP, adam)
        run.epoch_end()
        assert (run.seeds["seed"].alpha, float(slot_of(run).alpha)) == (0.5, 0.5)
        x = NESTED_MLP.batch()
        with slot_of(run).muted():
            without = run.model.eval()(x)
        assert not torch.equal(run.model(x), without)
