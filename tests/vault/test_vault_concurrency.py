from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from esper_es.vault import Vault, digest_of

ROUNDS = 15


def tensor_of(number: int) -> torch.Tensor:
    return torch.full((200,), float(number))


def write_rounds(vault: Vault, first: int) -> None:
    """Half of every round is written by everyone, half by this writer alone."""
    for number in range(ROUNDS):
        vault.put_tensors({"shared": tensor_of(number), "own": tensor_of(1000 * first + number)})


def everything(writers: int) -> set[str]:
    shared = {digest_of(tensor_of(number)) for number in range(ROUNDS)}
    own = {digest_of(tensor_of(1000 * w + number)) for w in range(1, writers + 1) for number in range(ROUNDS)}
    return shared | own


def run_at_once(workers: list[Callable[[], None]]) -> list[int | None]:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=worker) for worker in workers]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


def test_processes_that_create_and_fill_a_vault_at_once_lose_nothing(place: Path) -> None:
    def writer(first: int) -> Callable[[], None]:
        return lambda: write_rounds(Vault.open(place), first)

    assert run_at_once([writer(1), writer(2), writer(3)]) == [0, 0, 0]
    with Vault.open(place) as vault:
        assert vault.verify() == []
        assert vault.digests() == everything(3)


def test_readers_see_what_writers_of_other_processes_finished(vault: Vault, place: Path) -> None:
    def read() -> None:
        reader = Vault.open(place)
        while reader.missing([digest_of(tensor_of(ROUNDS - 1))]):
            for digest in reader.digests():
                reader.get(digest)

    assert run_at_once([lambda: write_rounds(Vault.open(place), 1), read]) == [0, 0]


def test_threads_share_one_vault(vault: Vault) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda first: write_rounds(vault, first), [1, 2, 3]))
    assert vault.verify() == []
    assert vault.digests() == everything(3)


def test_processes_that_find_the_index_damaged_at_once_lose_nothing(vault: Vault, place: Path) -> None:
    write_rounds(vault, 1)
    vault.close()
    (place / "index.db").write_bytes(b"garbage" * 1000)

    def writer(first: int) -> Callable[[], None]:
        return lambda: write_rounds(Vault.open(place), first)

    assert run_at_once([writer(2), writer(3)]) == [0, 0]
    with Vault.open(place) as again:
        assert again.verify() == []
        assert again.digests() == everything(3)
