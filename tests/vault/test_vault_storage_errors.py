"""Full, failing and forbidden disks: a clear error, nothing half-written, everything older readable."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from esper_es import failpoints
from esper_es.domain.errors import EsperError, UsageError, VaultError
from esper_es.vault import FindingKind, MemoryVault, Vault

Fork = Callable[[Callable[[], object]], int]
NOBODY = 65534


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("point", ["vault.writing", "vault.temporary_written", "vault.synced"])
def test_a_disk_that_fails_while_writing_leaves_nothing_behind(
    vault: Vault, place: Path, point: str, code: int
) -> None:
    earlier = vault.put_tensors({"it": torch.ones(3)})["it"]
    files = sorted((place / "packs").iterdir())
    with (
        failpoints.raising(point, OSError(code, os.strerror(code))),
        pytest.raises(VaultError, match=os.strerror(code)),
    ):
        vault.put_tensors({"large": torch.zeros(1_000_000)})
    assert sorted((place / "packs").iterdir()) == files
    assert torch.equal(vault.get(earlier), torch.ones(3))


def test_a_disk_that_is_full_in_the_middle_of_a_large_pack_leaves_nothing_behind(
    vault: Vault, place: Path
) -> None:
    with (
        failpoints.raising("vault.writing", OSError(errno.ENOSPC, "No space left on device"), hit=3),
        pytest.raises(VaultError, match="free some space, or collect garbage"),
    ):
        vault.put_tensors({"large": torch.zeros(5_000_000)})
    assert list((place / "packs").iterdir()) == []


def test_after_a_full_disk_the_same_content_can_be_stored(vault: Vault) -> None:
    with failpoints.raising("vault.synced", OSError(errno.ENOSPC, "full")), pytest.raises(VaultError):
        vault.put_bytes(b"data")
    assert vault.get_bytes(vault.put_bytes(b"data")) == b"data"


def test_a_directory_that_cannot_be_made_durable_is_an_error(vault: Vault) -> None:
    with failpoints.raising("vault.renamed", OSError(errno.EIO, "I/O error")), pytest.raises(VaultError):
        vault.put_bytes(b"data")
    assert vault.get_bytes(vault.put_bytes(b"data")) == b"data"


def test_an_interrupted_write_leaves_nothing_behind(vault: Vault, place: Path) -> None:
    with failpoints.raising("vault.temporary_written", KeyboardInterrupt()), pytest.raises(KeyboardInterrupt):
        vault.put_bytes(b"data")
    assert list((place / "packs").iterdir()) == []


def test_a_real_limit_hit_in_the_middle_of_a_write_is_an_error_and_older_content_stays(
    vault: Vault, place: Path, in_another_process: Fork
) -> None:
    earlier = vault.put_bytes(b"earlier")
    large = torch.zeros(2_000_000)

    def work() -> None:
        with Vault.open(place) as other:
            resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
            with pytest.raises(VaultError, match="File too large"):
                other.put_tensors({"large": large})
            assert other.get_bytes(earlier) == b"earlier"

    assert in_another_process(work) == 0
    assert len(list((place / "packs").iterdir())) == 1
    assert vault.verify() == []


def test_a_disk_that_takes_less_than_it_is_given_gets_the_rest(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    def grudging(descriptor: int, pieces: list[memoryview]) -> int:
        return os.write(descriptor, b"".join(pieces)[:50])

    monkeypatch.setattr(os, "writev", grudging)
    digests = vault.put_tensors({str(number): torch.full((number,), 1.5) for number in range(30)})
    assert vault.verify() == []
    assert torch.equal(vault.get(digests["29"]), torch.full((29,), 1.5))


def test_room_is_checked_against_the_quota(place: Path) -> None:
    with Vault.open(place, quota_bytes=10_000) as vault:
        vault.ensure_room(10_000)
        with pytest.raises(VaultError, match="0 of the 10000 bytes of its quota"):
            vault.ensure_room(10_001)


def test_nothing_is_written_that_exceeds_the_quota(place: Path) -> None:
    with Vault.open(place, quota_bytes=10_000) as vault:
        with pytest.raises(VaultError, match="quota"):
            vault.put_tensors({"large": torch.zeros(10_000)})
        assert list((place / "packs").iterdir()) == []


def test_the_quota_of_a_vault_in_memory_is_kept() -> None:
    with MemoryVault(quota_bytes=10_000) as vault, pytest.raises(VaultError, match="quota"):
        vault.put_tensors({"large": torch.zeros(10_000)})


def test_room_is_checked_against_the_free_space(vault: Vault, place: Path) -> None:
    with pytest.raises(VaultError, match="free some space"):
        vault.ensure_room(shutil.disk_usage(place).free + 10**15)


def test_negative_room_makes_no_sense(vault: Vault) -> None:
    with pytest.raises(UsageError, match="-1 bytes"):
        vault.ensure_room(-1)


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(VaultError, match="name a directory"):
        Vault.open(tmp_path / "file" / "vault")


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(VaultError, match="name a directory"):
        Vault.open(tmp_path / "file")


def test_an_empty_path_is_refused() -> None:
    with pytest.raises(UsageError, match="needs a path"):
        Vault.open("")


def test_a_directory_without_write_permission_is_refused(tmp_path: Path, in_another_process: Fork) -> None:
    place = tmp_path / "vault"
    Vault.open(place).close()
    for directory in (place / "packs", place):
        directory.chmod(0o555)

    def work() -> None:
        os.chdir(tmp_path)
        if os.geteuid() == 0:
            os.setuid(NOBODY)
        with pytest.raises(VaultError, match=r"Permission denied.*needs to read and write"):
            Vault.open(os.path.relpath(place))

    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    assert in_another_process(work) == 0


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_file_system_that_becomes_read_only_is_an_error(vault: Vault, code: int) -> None:
    earlier = vault.put_bytes(b"earlier")
    with (
        failpoints.raising("vault.writing", OSError(code, os.strerror(code))),
        pytest.raises(EsperError) as raised,
    ):
        vault.put_bytes(b"later")
    assert isinstance(raised.value, VaultError)
    assert vault.get_bytes(earlier) == b"earlier"


def test_packs_that_are_a_symbolic_link_are_refused(place: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    place.mkdir()
    (place / "packs").symlink_to(tmp_path / "outside")
    with pytest.raises(VaultError, match="symbolic links are not followed"):
        Vault.open(place)


def test_a_pack_that_is_a_symbolic_link_is_not_read_but_found(
    vault: Vault, place: Path, tmp_path: Path
) -> None:
    with Vault.open(tmp_path / "other") as other:
        receipt = other.put({}, {"secret": b"secret"})
    assert receipt.pack is not None
    (place / "packs" / receipt.pack).symlink_to(tmp_path / "other" / "packs" / receipt.pack)
    assert not vault.contains(receipt.blobs["secret"])
    assert [(f.kind, f.pack) for f in vault.verify()] == [(FindingKind.FOREIGN_FILE, receipt.pack)]


def test_a_vault_in_missing_directories_is_created(tmp_path: Path) -> None:
    with Vault.open(tmp_path / "a" / "b" / "vault") as vault:
        assert vault.path == tmp_path / "a" / "b" / "vault"
