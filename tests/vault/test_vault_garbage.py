"""Garbage collection: what is reachable stays, what is not goes, and nobody who is capturing is hurt."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from esper_es import failpoints
from esper_es.domain.errors import MissingTensorError, UsageError, VaultError
from esper_es.vault import MemoryVault, Vault, digest_of
from esper_es.vault.directory import PackDirectory
from esper_es.vault.format import Entry, Pack
from esper_es.vault.garbage import judge

Fork = Callable[[Callable[[], object]], int]
DropIndex = Callable[[Path], None]
HOUR = 3600.0


def tensor_of(number: int) -> torch.Tensor:
    return torch.full((100,), float(number))


def age(place: Path, seconds: float) -> None:
    """Make every file of the vault older."""
    for file in (place / "packs").iterdir():
        then = file.stat().st_mtime - seconds
        os.utime(file, (then, then))


def store(vault: Vault | MemoryVault, *numbers: int) -> list[str]:
    """Store tensors in one pack and return their digests."""
    return list(vault.put_tensors({str(number): tensor_of(number) for number in numbers}).values())


def test_without_grace_unreachable_content_is_deleted_at_once(either: Vault | MemoryVault) -> None:
    (dead,) = store(either, 1)
    (live,) = store(either, 2)
    either.collect_garbage({live}, grace_seconds=0)
    assert either.digests() == {live}
    with pytest.raises(MissingTensorError):
        either.get(dead)


def test_content_younger_than_the_grace_period_stays(either: Vault | MemoryVault) -> None:
    digests = store(either, 1, 2)
    either.collect_garbage(set(), HOUR)
    assert either.missing(digests) == []


def test_a_dry_run_reports_what_would_be_freed_and_changes_nothing(either: Vault | MemoryVault) -> None:
    digests = store(either, 1, 2)
    report = either.collect_garbage(set(), 0, dry_run=True)
    assert report.dry_run
    assert report.freed_bytes == either.size_bytes()
    assert either.missing(digests) == []


def test_a_typing_error_among_the_reachable_digests_deletes_nothing(either: Vault | MemoryVault) -> None:
    digests = store(either, 1)
    with pytest.raises(UsageError, match="is not a digest"):
        either.collect_garbage({digests[0].removeprefix("b3:")}, 0)
    assert either.missing(digests) == []


@pytest.mark.parametrize("grace", [-1.0, float("nan")])
def test_a_grace_period_out_of_range_is_refused(either: Vault | MemoryVault, grace: float) -> None:
    with pytest.raises(UsageError, match="grace_seconds"):
        either.collect_garbage(set(), grace)


def test_an_old_unreachable_pack_is_buried_first_and_deleted_a_grace_period_later(
    vault: Vault, place: Path
) -> None:
    store(vault, 1)
    age(place, 2 * HOUR)
    first = vault.collect_garbage(set(), HOUR)
    too_early = vault.collect_garbage(set(), HOUR)
    age(place, 2 * HOUR)
    second = vault.collect_garbage(set(), HOUR)
    assert (first.buried, too_early.buried, too_early.deleted) == (second.deleted, (), ())
    assert vault.size_bytes() == 0


def test_buried_content_is_still_readable(vault: Vault, place: Path) -> None:
    (digest,) = store(vault, 1)
    age(place, 2 * HOUR)
    vault.collect_garbage(set(), HOUR)
    assert torch.equal(vault.get(digest), tensor_of(1))


def test_a_capture_does_not_rely_on_a_buried_pack(vault: Vault, place: Path) -> None:
    """It may be deleted before the fact of the capture is committed."""
    (digest,) = store(vault, 1)
    age(place, 2 * HOUR)
    vault.collect_garbage(set(), HOUR)
    (again,) = store(vault, 1)
    for file in (place / "packs").glob("*.dead"):
        os.utime(file, (0, 0))
    vault.collect_garbage(set(), HOUR)
    assert again == digest
    assert torch.equal(vault.get(digest), tensor_of(1))


def test_a_buried_pack_that_is_needed_again_is_revived(vault: Vault, place: Path) -> None:
    (digest,) = store(vault, 1)
    age(place, 2 * HOUR)
    (buried,) = vault.collect_garbage(set(), HOUR).buried
    age(place, 2 * HOUR)
    assert vault.collect_garbage({digest}, HOUR).revived == (buried,)
    assert list((place / "packs").glob("*.dead")) == []


def test_what_is_needed_of_a_half_dead_pack_moves_to_a_new_one(vault: Vault, drop_index: DropIndex) -> None:
    live, *dead = store(vault, 1, 2, 3, 4)
    report = vault.collect_garbage({live}, 0)
    assert report.repacked == report.deleted
    assert vault.digests() == {live}
    assert torch.equal(vault.get(live), tensor_of(1))
    assert vault.missing(dead) == dead
    assert vault.verify() == []


def test_a_repacked_tensor_is_found_without_the_index(
    vault: Vault, place: Path, drop_index: DropIndex
) -> None:
    live, *_ = store(vault, 1, 2, 3, 4)
    vault.collect_garbage({live}, 0)
    vault.close()
    drop_index(place)
    with Vault.open(place) as again:
        assert torch.equal(again.get(live), tensor_of(1))


def test_a_repacked_tensor_is_found_by_a_process_that_knew_its_old_place(vault: Vault, place: Path) -> None:
    live, *_ = store(vault, 1, 2, 3, 4)
    with Vault.open(place) as other:
        other.collect_garbage({live}, 0)
    assert torch.equal(vault.get(live), tensor_of(1))


def test_a_pack_with_little_dead_content_is_left_alone(vault: Vault) -> None:
    *live, _ = store(vault, *range(10))
    assert vault.collect_garbage(set(live), 0).deleted == ()


def test_the_share_of_dead_content_that_is_worth_a_repack_can_be_chosen(vault: Vault) -> None:
    *live, dead = store(vault, *range(10))
    vault.collect_garbage(set(live), 0, min_dead_share=0.0)
    assert vault.digests() == set(live)
    assert vault.missing([dead]) == [dead]


def test_a_pack_whose_needed_content_is_damaged_is_kept(vault: Vault, place: Path) -> None:
    live, *_ = store(vault, 1, 2, 3, 4)
    (pack,) = (place / "packs").glob("*.pack")
    pack.write_bytes(b"\xff" + pack.read_bytes()[1:])
    report = vault.collect_garbage({live}, 0)
    assert (report.damaged, report.deleted) == ((pack.name,), ())
    assert pack.exists()


def test_a_pack_whose_footer_is_damaged_is_kept(vault: Vault, place: Path) -> None:
    store(vault, 1)
    (pack,) = (place / "packs").glob("*.pack")
    pack.write_bytes(pack.read_bytes()[:-1])
    assert vault.collect_garbage(set(), 0).damaged == (pack.name,)
    assert pack.exists()


def test_only_one_process_collects_at_a_time(vault: Vault, place: Path) -> None:
    with PackDirectory(place).collecting(), pytest.raises(VaultError, match="being collected already"):
        vault.collect_garbage(set(), 0)


def test_a_full_disk_during_a_repack_deletes_nothing(vault: Vault) -> None:
    live, *dead = store(vault, 1, 2, 3, 4)
    with failpoints.raising("vault.synced", OSError(28, "No space left")), pytest.raises(VaultError):
        vault.collect_garbage({live}, 0)
    assert vault.missing([live, *dead]) == []


@pytest.mark.parametrize(
    "point",
    [
        "vault.temporary_written",
        "vault.synced",
        "vault.renamed",
        "vault.buried",
        "vault.repacked",
        "vault.deleted",
    ],
)
def test_a_kill_during_a_collection_leaves_reachable_content_and_a_whole_vault(
    vault: Vault, place: Path, in_another_process: Fork, point: str
) -> None:
    live, *_ = store(vault, 1, 2, 3, 4)
    vault.close()

    def work() -> None:
        os.environ[failpoints.VARIABLE] = point
        Vault.open(place).collect_garbage({live}, 0)

    assert in_another_process(work) == -signal.SIGKILL
    with Vault.open(place) as again:
        assert again.verify() == []
        assert torch.equal(again.get(live), tensor_of(1))
        again.collect_garbage({live}, 0)
        assert again.digests() == {live}
        assert list((place / "packs").glob("*.dead")) == []


digests_of_numbers = [digest_of(tensor_of(number)) for number in range(6)]


@given(
    stored=st.sets(st.sampled_from(digests_of_numbers), min_size=1),
    reachable=st.sets(st.sampled_from(digests_of_numbers)),
    age=st.floats(0, 10),
    buried_for=st.none() | st.floats(0, 10),
    grace=st.floats(0, 10),
    share=st.floats(0, 1),
)
def test_every_verdict_keeps_the_law(
    stored: set[str],
    reachable: set[str],
    age: float,
    buried_for: float | None,
    grace: float,
    share: float,
) -> None:
    entries = tuple(
        Entry(digest, "float32", (100,), 448 * place, 400) for place, digest in enumerate(sorted(stored))
    )
    pack = Pack("0" * 32 + ".pack", 448 * len(entries) + 500, entries)
    verdict = judge(
        pack, reachable, age=age, buried_for=buried_for, grace_seconds=grace, min_dead_share=share
    )
    assert {entry.digest for entry in verdict.live} == stored & reachable
    if verdict.delete:
        assert stored - reachable
        assert grace == 0 or (buried_for is not None and buried_for >= grace)
    if verdict.bury:
        assert age >= grace
    assert not (verdict.revive and verdict.delete)


class Captures(RuleBasedStateMachine):
    """Captures, forgotten facts and collections in any order: what a fact names is always readable."""

    place: Path

    def __init__(self) -> None:
        super().__init__()
        self.vault = Vault.open(self.place / str(time.monotonic_ns()))
        self.reachable: dict[str, int] = {}

    @rule(numbers=st.sets(st.integers(0, 8), min_size=1, max_size=4))
    def capture(self, numbers: set[int]) -> None:
        digests = store(self.vault, *sorted(numbers))
        self.reachable.update(zip(digests, sorted(numbers), strict=True))

    @rule(keep=st.sets(st.integers(0, 8)))
    def forget(self, keep: set[int]) -> None:
        self.reachable = {digest: number for digest, number in self.reachable.items() if number in keep}

    @rule(share=st.sampled_from([0.0, 0.5, 1.0]))
    def collect_with_grace(self, share: float) -> None:
        self.vault.collect_garbage(set(self.reachable), HOUR, min_dead_share=share)

    @rule()
    def collect_at_once(self) -> None:
        self.vault.collect_garbage(set(self.reachable), 0, min_dead_share=0.0)
        assert self.vault.digests() == set(self.reachable)

    @rule()
    def wait(self) -> None:
        age(self.vault.path, 2 * HOUR)

    @rule()
    def reopen(self) -> None:
        self.vault.close()
        self.vault = Vault.open(self.vault.path)

    @invariant()
    def everything_reachable_is_readable(self) -> None:
        for digest, number in self.reachable.items():
            assert torch.equal(self.vault.get(digest), tensor_of(number))

    def teardown(self) -> None:
        assert self.vault.verify() == []
        self.vault.close()


def test_captures_and_collections_in_any_order_keep_what_facts_name(tmp_path: Path) -> None:
    class Here(Captures):
        place = tmp_path

    run_state_machine_as_test(Here, settings=settings(max_examples=15, stateful_step_count=12, deadline=None))
