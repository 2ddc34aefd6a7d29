"""The laws of the design, over random stories: log = live, replay = live, rollback is exact, failure is free."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from models import ZOO, Zoolet
from training import OPTIMIZERS, MakeOptimizer

from .story import Act, Story

SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large)
settings.register_profile(
    "ci",
    max_examples=5,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=SLOW,
)
settings.register_profile("thorough", max_examples=200, deadline=None, suppress_health_check=SLOW)
LAW = settings.get_profile(os.environ.get("ESPER_ES_PROFILE", "ci"))

SURGERIES = ("width", "add", "remove", "skip")
SEEDS = ("plant", "germinate", "germinate", "advance", "advance", "alpha", "cull", "fossilize")
CLOCK = ("train", "train", "epoch", "epoch", "capture", "rollback", "broken")


def acts(*names: str) -> st.SearchStrategy[list[Act]]:
    numbers = st.integers(0, 40)
    return st.lists(st.tuples(st.sampled_from(names), numbers, numbers), min_size=5, max_size=12)


def told(zoolet: Zoolet, optimizer: MakeOptimizer, steps: list[Act]) -> Story:
    story = Story(zoolet, optimizer)
    for step in steps:
        story.act(step)
    story.finish()
    return story


@pytest.mark.parametrize("zoolet", ZOO, ids=lambda zoolet: zoolet.name)
@given(optimizer=st.sampled_from(OPTIMIZERS), steps=acts(*SURGERIES, *CLOCK))
@LAW
def test_the_laws_hold_for_random_surgeries(
    zoolet: Zoolet, optimizer: MakeOptimizer, steps: list[Act]
) -> None:
    told(zoolet, optimizer, steps)


@pytest.mark.parametrize("zoolet", ZOO, ids=lambda zoolet: zoolet.name)
@given(optimizer=st.sampled_from(OPTIMIZERS), steps=acts(*SURGERIES, *SEEDS, *CLOCK))
@LAW
def test_the_laws_hold_with_seeds_at_all_stages_of_life(
    zoolet: Zoolet, optimizer: MakeOptimizer, steps: list[Act]
) -> None:
    grown = [("plant", 1, 0), ("germinate", 1, 5), ("advance", 1, 0), ("epoch", 0, 0), ("advance", 1, 0)]
    told(zoolet, optimizer, [*grown, *steps])
