"""Everything that seeds refuse: it says why, is a fact, and leaves model, optimizer and generators byte for byte."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from models import CONV_NET, NESTED_CNN, NESTED_MLP
from torch import nn
from training import adam, attached, train_run

from esper_es import AlphaSchedule, Engine, Run, SurgeryConstraints, SurgeryResult, blueprint
from esper_es.domain.facts import SurgeryRefused

from .photograph import differences, photograph

Given = Callable[[Engine], Run]
Act = Callable[[Run], SurgeryResult]


def dormant(engine: Engine) -> Run:
    run = attached(engine, NESTED_MLP, adam)
    run.seeds.plant("seed", "0")
    train_run(run, NESTED_MLP)
    return run


def germinated(engine: Engine) -> Run:
    run = dormant(engine)
    assert run.seeds.germinate("seed", "mlp").success
    train_run(run, NESTED_MLP)
    return run


def training(engine: Engine) -> Run:
    run = germinated(engine)
    assert run.seeds.advance("seed").success
    return run


def blending(engine: Engine) -> Run:
    run = training(engine)
    run.epoch_end()
    assert run.seeds.advance("seed", schedule=AlphaSchedule(epochs=1)).success
    return run


def holding(engine: Engine) -> Run:
    run = blending(engine)
    run.epoch_end()
    assert run.seeds["seed"].stage == "HOLDING"
    return run


def ripe(engine: Engine) -> Run:
    run = holding(engine)
    run.epoch_end()
    return run


def fossilized(engine: Engine) -> Run:
    run = ripe(engine)
    assert run.seeds.fossilize("seed", evidence={"contribution": 0.1}).success
    return run


def culled(engine: Engine) -> Run:
    run = germinated(engine)
    assert run.seeds.cull("seed").success
    return run


STAGES: dict[str, Given] = {
    "DORMANT": dormant,
    "GERMINATED": germinated,
    "TRAINING": training,
    "BLENDING": blending,
    "HOLDING": holding,
    "FOSSILIZED": fossilized,
    "PRUNED": culled,
}
STEPS: dict[str, Act] = {
    "germinate": lambda run: run.seeds.germinate("seed", "lora"),
    "advance": lambda run: run.seeds.advance("seed"),
    "blend": lambda run: run.seeds.blend("seed", AlphaSchedule(epochs=2)),
    "set_alpha": lambda run: run.seeds.set_alpha("seed", 0.5),
    "cull": lambda run: run.seeds.cull("seed"),
    "fossilize": lambda run: run.seeds.fossilize("seed", override="for the test of the stage alone"),
}
LEGAL = {
    "DORMANT": {"germinate"},
    "GERMINATED": {"advance", "cull"},
    "TRAINING": {"advance", "cull"},
    "BLENDING": {"set_alpha", "cull"},
    "HOLDING": {"blend", "cull", "fossilize"},
    "FOSSILIZED": set[str](),
    "PRUNED": set[str](),
}
ILLEGAL = [(stage, step) for stage, legal in LEGAL.items() for step in STEPS if step not in legal]


def refused(engine: Engine, run: Run, act: Act, check: str) -> SurgeryRefused:
    """Check that something is refused by a check and does nothing; return the fact that says so."""
    before, version, state = photograph(run), run.version, run.state
    result = act(run)
    assert (result.success, result.check, bool(result.error)) == (False, check, True)
    assert differences(before, photograph(run)) == []
    assert run.state.lineage == state.lineage
    (envelope,) = engine.history("model")[version:]
    assert isinstance(envelope.fact, SurgeryRefused)
    assert (envelope.fact.check, envelope.fact.reason) == (check, result.error)
    return envelope.fact


@pytest.mark.parametrize(("stage", "step"), ILLEGAL)
def test_a_step_that_its_stage_does_not_allow_is_refused(stage: str, step: str, engine: Engine) -> None:
    run = STAGES[stage](engine)
    fact = refused(engine, run, STEPS[step], "lifecycle")
    assert stage in fact.reason
    assert fact.target == "seed"


def in_the_way(engine: Engine) -> Run:
    run = attached(engine, NESTED_MLP, adam)
    run.seeds.plant("seed", "2.0")
    assert run.seeds.germinate("seed", "mlp").success
    return run


def image_seed(engine: Engine) -> Run:
    run = attached(engine, NESTED_CNN, adam)
    run.seeds.plant("seed", "0")
    return run


def beside_namesakes(engine: Engine) -> Run:
    run = attached(engine, CONV_NET, adam)
    run.seeds.plant("head", "conv2")
    run.seeds.plant("forward", "conv2")
    return run


def limited(engine: Engine) -> Run:
    limits = SurgeryConstraints(max_memory_increase_mb=1e-6, max_graph_depth=1000)
    run = attached(engine, NESTED_MLP, adam, constraints=limits)
    run.seeds.plant("seed", "0")
    return run


class Shy(nn.Module):
    """Has a layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = nn.Linear(6, 6)
        self.rests = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.runs(x)
        return y


blueprint("tests/shy")(Shy)


def shy(engine: Engine) -> Run:
    model = Shy()
    run = engine.attach(model, "model", (torch.randn(4, 6),), adam(model), blueprint="tests/shy")
    run.seeds.plant("seed", "rests")
    return run


CASES: dict[str, tuple[Given, Act, str]] = {
    "a second seed of a name": (dormant, lambda run: run.seeds.plant("seed", "1"), "seed_taken"),
    "a second seed of a fossil's name": (fossilized, lambda r: r.seeds.plant("seed", "1"), "seed_taken"),
    "a second seed of a culled one's name": (culled, lambda run: run.seeds.plant("seed", "1"), "seed_taken"),
    "a seed after an unknown layer": (dormant, lambda r: r.seeds.plant("other", "nowhere"), "unknown_layer"),
    "a seed after the whole model": (dormant, lambda run: run.seeds.plant("other", ""), "unknown_layer"),
    "germinating an unknown seed": (dormant, lambda r: r.seeds.germinate("other", "mlp"), "unknown_seed"),
    "advancing an unknown seed": (dormant, lambda run: run.seeds.advance("other"), "unknown_seed"),
    "blending an unknown seed": (
        dormant,
        lambda run: run.seeds.blend("other", AlphaSchedule()),
        "unknown_seed",
    ),
    "alpha of an unknown seed": (dormant, lambda run: run.seeds.set_alpha("other", 0.5), "unknown_seed"),
    "culling an unknown seed": (dormant, lambda run: run.seeds.cull("other"), "unknown_seed"),
    "fossilizing an unknown seed": (dormant, lambda run: run.seeds.fossilize("other"), "unknown_seed"),
    "a layer that never runs": (shy, STEPS["germinate"], "not_executed"),
    "a convolution on vectors": (dormant, lambda r: r.seeds.germinate("seed", "conv_small"), "kernel"),
    "a kernel of an even size": (
        image_seed,
        lambda run: run.seeds.germinate("seed", "conv_small", kernel_size=4),
        "kernel",
    ),
    "a seed of a layer's name": (
        beside_namesakes,
        lambda run: run.seeds.germinate("head", "conv_small"),
        "name_taken",
    ),
    "a seed of a method's name": (
        beside_namesakes,
        lambda run: run.seeds.germinate("forward", "conv_small"),
        "name_taken",
    ),
    "more memory than allowed": (limited, STEPS["germinate"], "max_memory_increase_mb"),
    "a stage that is too young": (training, STEPS["advance"], "G2"),
    "a fossil that is too young": (
        holding,
        lambda run: run.seeds.fossilize("seed", evidence={"contribution": 1.0}),
        "G5",
    ),
    "evidence that is too small": (
        ripe,
        lambda run: run.seeds.fossilize("seed", evidence={"contribution": -0.5}),
        "G5",
    ),
    "removing the slot of a seed": (
        in_the_way,
        lambda run: run.surgeon.remove_layer(layer_name="2.seed"),
        "seed",
    ),
    "removing what holds a seed": (in_the_way, lambda r: r.surgeon.remove_layer(layer_name="2"), "seed"),
    "removing a part of a kernel": (
        in_the_way,
        lambda run: run.surgeon.remove_layer(layer_name="2.seed.kernel.3"),
        "seed",
    ),
    "a layer behind a part of a kernel": (
        in_the_way,
        lambda run: run.surgeon.add_layer(
            after_layer="2.seed.kernel.3", new_layer=nn.ReLU(), layer_name="new"
        ),
        "seed",
    ),
    "a skip out of a kernel": (
        in_the_way,
        lambda run: run.surgeon.add_skip_connection(from_layer="2.seed.kernel.3", to_layer="3"),
        "not_executed",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_seeds_refuse_is_a_fact_and_does_nothing(case: str, engine: Engine) -> None:
    given, act, check = CASES[case]
    run = given(engine)
    refused(engine, run, act, check)


@pytest.mark.parametrize("step", ["germinate", "advance", "cull", "fossilize", "set_alpha"])
def test_nothing_happens_to_a_seed_while_a_forward_pass_runs_under_autocast(
    step: str, engine: Engine
) -> None:
    run = next(STAGES[stage](engine) for stage, legal in LEGAL.items() if step in legal)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        refused(engine, run, STEPS[step], "moment")


def test_a_refused_seed_goes_on_as_if_nobody_had_asked(engine: Engine) -> None:
    asked, left = training(engine), training(Engine())
    for step in STEPS.values():
        if step is not STEPS["cull"]:
            step(asked)
    for run in (asked, left):
        run.epoch_end()
        assert run.seeds.advance("seed", schedule=AlphaSchedule(epochs=2)).success
        run.epoch_end()
    assert asked.seeds["seed"] == left.seeds["seed"]


def test_what_a_refusal_says_can_be_read_back_after_a_restart(url: str) -> None:
    with Engine(url) as engine:
        run = dormant(engine)
        reason = run.seeds.advance("seed").error
    with Engine(url) as engine:
        fact = engine.history("model")[-1].fact
        assert isinstance(fact, SurgeryRefused)
        assert (fact.operation, fact.target, fact.reason) == ("advance_seed", "seed", reason)
