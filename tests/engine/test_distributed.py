"""Surgery on a model that two processes train: Mixtral in bfloat16, checkpointed, with an average that follows."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from torch import distributed

pytest.importorskip("transformers")

from .ranks import WORLD, Seen, trained_together

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not distributed.is_gloo_available(), reason="this torch has no gloo"),
]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Seen]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    with ProcessPoolExecutor(max_workers=WORLD, mp_context=get_context("spawn")) as processes:
        futures = [processes.submit(trained_together, rank, folder) for rank in range(WORLD)]
        return [future.result(timeout=300) for future in futures]


def test_a_wrapped_model_is_not_changed(seen: Sequence[Seen]) -> None:
    assert [each.refused for each in seen] == [("distributed", "distributed")] * WORLD


def test_every_process_makes_the_change_of_the_first(seen: Sequence[Seen]) -> None:
    assert [(each.changed, each.width) for each in seen] == [(True, 24)] * WORLD


@pytest.mark.parametrize("when", [0, 1, 2], ids=["before the surgery", "after it", "trained on"])
def test_all_processes_have_the_same_bytes(when: int, seen: Sequence[Seen]) -> None:
    assert len({each.fingerprints[when] for each in seen}) == 1


@pytest.mark.parametrize("when", [0, 1, 2], ids=["before the surgery", "after it", "trained on"])
def test_all_processes_have_the_same_average(when: int, seen: Sequence[Seen]) -> None:
    assert len({each.averages[when] for each in seen}) == 1


def test_the_same_bytes_come_of_other_gradients(seen: Sequence[Seen]) -> None:
    """Nothing is proven by processes that see the same data."""
    assert len({each.mine for each in seen}) == WORLD
