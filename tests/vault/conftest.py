from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from esper_es.vault import MemoryVault, Vault


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the vault under test lies."""
    return tmp_path / "vault"


@pytest.fixture
def vault(place: Path) -> Iterator[Vault]:
    with Vault.open(place) as opened:
        yield opened


@pytest.fixture(params=["disk", "memory"])
def either(request: pytest.FixtureRequest, place: Path) -> Iterator[Vault | MemoryVault]:
    """Each kind of vault in turn, for the laws that both keep."""
    with Vault.open(place) if request.param == "disk" else Vault.in_memory() as opened:
        yield opened


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "weight": torch.randn(4, 3, generator=generator),
        "bias": torch.randn(4, generator=generator),
        "steps": torch.tensor(7),
    }


@pytest.fixture
def in_another_process() -> Callable[[Callable[[], object]], int]:
    """Run work in a forked process and return its exit code, negative when a signal killed it.

    The work must not start parallel torch operations: OpenMP does not survive a fork.
    """

    def run(work: Callable[[], object]) -> int:
        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        process.join(timeout=60)
        process.kill()
        process.join()
        assert process.exitcode is not None
        return process.exitcode

    return run


@pytest.fixture
def packs_of() -> Callable[[Path], list[Path]]:
    """The pack files of the vault at a place."""
    return lambda place: sorted((place / "packs").glob("*.pack"))


@pytest.fixture
def drop_index() -> Callable[[Path], None]:
    """Delete the index of the vault at a place."""

    def drop(place: Path) -> None:
        for file in place.glob("index.db*"):
            file.unlink()

    return drop
