from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from esper_es.vault import MemoryVault, Vault

Packs = Callable[[Path], list[Path]]
Fork = Callable[[Callable[[], object]], int]


def test_everything_new_in_one_call_goes_into_one_pack(
    vault: Vault, place: Path, tensors: dict[str, torch.Tensor], packs_of: Packs
) -> None:
    receipt = vault.put(tensors, {"manifest": b"{}", "rng": b"state"})
    assert [pack.name for pack in packs_of(place)] == [receipt.pack]


def test_the_receipt_counts_the_bytes_that_were_written(
    vault: Vault, tensors: dict[str, torch.Tensor]
) -> None:
    assert vault.put(tensors).bytes_written == vault.size_bytes()


def test_unchanged_content_is_not_written_again(
    either: Vault | MemoryVault, tensors: dict[str, torch.Tensor]
) -> None:
    either.put(tensors, {"manifest": b"{}"})
    size = either.size_bytes()
    receipt = either.put(tensors, {"manifest": b"{}"})
    assert (receipt.pack, receipt.bytes_written, either.size_bytes()) == (None, 0, size)


def test_only_what_changed_is_written(vault: Vault, tensors: dict[str, torch.Tensor]) -> None:
    vault.put(tensors)
    large = torch.zeros(100_000)
    vault.put({"large": large})
    assert vault.put({**tensors, "large": large, "bias": torch.ones(4)}).bytes_written < 1000


def test_one_content_under_two_names_is_stored_once(either: Vault | MemoryVault) -> None:
    receipt = either.put({"tied": torch.ones(50_000), "twin": torch.ones(50_000)})
    assert receipt.tensors["tied"] == receipt.tensors["twin"]
    assert either.size_bytes() < 250_000


def test_content_is_recognised_after_reopening(place: Path, tensors: dict[str, torch.Tensor]) -> None:
    with Vault.open(place) as first:
        first.put(tensors)
    with Vault.open(place) as second:
        assert second.put(tensors).pack is None


def test_content_written_by_another_process_is_recognised(
    vault: Vault, place: Path, tensors: dict[str, torch.Tensor], in_another_process: Fork
) -> None:
    assert in_another_process(lambda: Vault.open(place).put(tensors)) == 0
    assert vault.put(tensors).pack is None


def test_content_written_by_another_process_is_found(
    vault: Vault, place: Path, tensors: dict[str, torch.Tensor], in_another_process: Fork
) -> None:
    assert in_another_process(lambda: Vault.open(place).put(tensors)) == 0
    assert vault.missing(vault.put(tensors).tensors.values()) == []


def test_a_vault_carried_into_a_forked_process_works_in_both(
    vault: Vault, tensors: dict[str, torch.Tensor], in_another_process: Fork
) -> None:
    before = vault.put_bytes(b"before the fork")
    assert in_another_process(lambda: vault.put(tensors)) == 0
    digests = vault.put_tensors(tensors)
    assert vault.get_bytes(before) == b"before the fork"
    assert torch.equal(vault.get(digests["weight"]), tensors["weight"])


def test_size_counts_every_pack(vault: Vault, place: Path, packs_of: Packs) -> None:
    vault.put_bytes(b"one")
    vault.put_bytes(b"two")
    assert vault.size_bytes() == sum(pack.stat().st_size for pack in packs_of(place))


def test_digests_lists_everything_stored(
    either: Vault | MemoryVault, tensors: dict[str, torch.Tensor]
) -> None:
    receipt = either.put(tensors, {"manifest": b"{}"})
    assert either.digests() == {*receipt.tensors.values(), *receipt.blobs.values()}
