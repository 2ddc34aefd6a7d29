"""Surgery on real architectures: done right, or refused; never wrong.

Takes about two minutes of processor time. It samples; ``make zoo`` tries everything and writes ``docs/zoo.md``.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from importlib.util import find_spec
from pathlib import Path

import pytest

from esper_es import Engine

from .names import NAMES
from .replaying import differing, elsewhere

GROUPS = 1

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("transformers") is None or find_spec("timm") is None,
        reason="transformers or timm is not installed",
    ),
]


@pytest.fixture(scope="session")
def another_process() -> Iterator[Executor]:
    with elsewhere() as process:
        yield process


def test_the_names_are_those_of_the_catalog() -> None:
    from .catalog import ZOO

    assert tuple(ZOO) == NAMES


def test_the_page_tells_of_every_model_and_of_nothing_wrong() -> None:
    text = (Path(__file__).parents[2] / "docs" / "zoo.md").read_text()
    assert [name for name in NAMES if f"\n| {name} |" not in text] == []
    assert "## What was wrong\n\nNothing.\n" in text


@pytest.mark.parametrize("name", NAMES)
def test_surgery_is_right_or_refused(name: str, tmp_path: Path, another_process: Executor) -> None:
    from .catalog import ZOO
    from .round import sampled
    from .trials import Trials

    url = f"sqlite:///{tmp_path / 'zoo.db'}"
    with Engine(url) as engine:
        trials = Trials(ZOO[name], engine)
        outcomes = list(sampled(trials, GROUPS))
    wrong = [f"{o.surgery} {o.target}: {problem}" for o in outcomes for problem in o.wrong]
    assert wrong == []
    assert trials.versions
    assert another_process.submit(differing, url, trials.versions).result(timeout=300) == []
