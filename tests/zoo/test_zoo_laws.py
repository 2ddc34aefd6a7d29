"""The laws over random surgeries on random models of the zoo: failure is free, rollbacks and replays are exact."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from esper_es import Engine

from .names import NAMES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("transformers") is None or find_spec("timm") is None,
        reason="transformers or timm is not installed",
    ),
]

NUMBERS = st.integers(0, 1000)


@st.composite
def histories(draw: st.DrawFn) -> tuple[str, list[tuple[str, int, int]]]:
    from .random_surgeries import ACTS

    act = st.tuples(st.sampled_from(ACTS), NUMBERS, NUMBERS)
    return draw(st.sampled_from(NAMES)), draw(st.lists(act, min_size=4, max_size=8))


@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=(HealthCheck.too_slow,),
)
@given(histories())
def test_the_laws_hold_for_random_surgeries(history: tuple[str, list[tuple[str, int, int]]]) -> None:
    from .catalog import ZOO
    from .random_surgeries import RandomSurgeries

    name, acts = history
    torch.set_num_threads(1)
    with Engine() as engine:
        story = RandomSurgeries(ZOO[name], engine)
        for act in acts:
            story.act(act)
        story.finish()
    for outcome in story.outcomes:
        event(outcome)
