from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from esper_es import Engine


@pytest.fixture(autouse=True)
def _small_and_repeatable() -> Iterator[None]:
    """The models are tiny: one thread is faster than several, and random weights are the same every time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def engine() -> Iterator[Engine]:
    """An engine in memory."""
    with Engine() as opened:
        yield opened


@pytest.fixture
def url(tmp_path: Path) -> str:
    """URL of a log in a file that does not exist yet; its vault lies beside it."""
    return f"sqlite:///{tmp_path / 'runs.db'}"
