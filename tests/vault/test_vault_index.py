"""The index is a cache: whatever happens to it, content stays."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from esper_es.domain.errors import VaultError
from esper_es.vault import FindingKind, Vault
from esper_es.vault.index_database import IndexDatabase

DropIndex = Callable[[Path], None]
Fork = Callable[[Callable[[], object]], int]


@pytest.fixture
def digests(place: Path) -> dict[str, str]:
    """What a vault holds that was closed again: two packs."""
    with Vault.open(place) as vault:
        first = vault.put_tensors({str(number): torch.full((30,), float(number)) for number in range(40)})
        return {**first, **vault.put_tensors({"last": torch.full((30,), 40.0)})}


def assert_all_readable(vault: Vault, digests: dict[str, str]) -> None:
    assert [float(vault.get(digest)[0]) for digest in digests.values()] == [float(n) for n in range(41)]


def test_a_deleted_index_is_built_again(place: Path, digests: dict[str, str], drop_index: DropIndex) -> None:
    drop_index(place)
    with Vault.open(place) as vault:
        assert vault.digests() == set(digests.values())
        assert_all_readable(vault, digests)


@pytest.mark.parametrize("content", [b"", b"garbage", b"SQLite format 3\0" + b"\xff" * 5000])
def test_an_overwritten_index_is_built_again(place: Path, digests: dict[str, str], content: bytes) -> None:
    (place / "index.db").write_bytes(content)
    with Vault.open(place) as vault:
        assert vault.verify() == []
        assert_all_readable(vault, digests)


@pytest.mark.parametrize("page", range(1, 6))
def test_an_index_with_an_overwritten_page_costs_nothing(
    place: Path, digests: dict[str, str], page: int
) -> None:
    index = bytearray((place / "index.db").read_bytes())
    index[4096 * page : 4096 * page + 4096] = b"\xa5" * 4096
    (place / "index.db").write_bytes(index)
    with Vault.open(place) as vault:
        assert_all_readable(vault, digests)
        assert vault.put_bytes(b"new") in vault.digests()


def test_an_index_cut_short_costs_nothing(place: Path, digests: dict[str, str]) -> None:
    index = (place / "index.db").read_bytes()
    (place / "index.db").write_bytes(index[: len(index) // 2])
    with Vault.open(place) as vault:
        assert_all_readable(vault, digests)


def test_an_index_deleted_under_an_open_vault_costs_nothing(
    place: Path, digests: dict[str, str], drop_index: DropIndex
) -> None:
    with Vault.open(place) as vault:
        drop_index(place)
        later = vault.put_bytes(b"later")
        assert_all_readable(vault, digests)
    with Vault.open(place) as vault:
        assert vault.get_bytes(later) == b"later"


def test_an_index_overwritten_under_an_open_vault_costs_nothing(place: Path, digests: dict[str, str]) -> None:
    with Vault.open(place) as vault:
        with (place / "index.db").open("r+b") as file:
            file.write(b"\xa5" * file.seek(0, 2))
        (place / "index.db-wal").write_bytes(b"\xa5" * 9000)
        later = vault.put_bytes(b"later")
        assert_all_readable(vault, digests)
    with Vault.open(place) as vault:
        assert vault.get_bytes(later) == b"later"


def test_an_index_whose_tables_were_dropped_is_built_again(place: Path, digests: dict[str, str]) -> None:
    with sqlite3.connect(place / "index.db") as db:
        db.execute("DROP TABLE blobs")
    with Vault.open(place) as vault:
        assert_all_readable(vault, digests)


def test_an_index_of_another_schema_is_built_again(place: Path, digests: dict[str, str]) -> None:
    with sqlite3.connect(place / "index.db") as db:
        db.execute("PRAGMA user_version = 99")
    with Vault.open(place) as vault:
        assert_all_readable(vault, digests)


@pytest.mark.parametrize(
    "lie",
    [
        "UPDATE blobs SET offset = 0",
        "UPDATE blobs SET length = 4, shape = '[1]'",
        "UPDATE blobs SET shape = '[3,10]'",
        "UPDATE blobs SET dtype = 'int32'",
        "UPDATE blobs SET shape = 'no json'",
        "UPDATE blobs SET shape = x'ff00'",
        "UPDATE blobs SET dtype = 'load'",
        "UPDATE packs SET name = '../' || name",
        "DELETE FROM blobs",
    ],
)
def test_an_index_that_lies_is_not_believed(place: Path, digests: dict[str, str], lie: str) -> None:
    with sqlite3.connect(place / "index.db") as db:
        db.execute(lie)
    with Vault.open(place) as vault:
        assert_all_readable(vault, digests)


@pytest.mark.parametrize("lie", ["UPDATE blobs SET offset = 64", "DELETE FROM blobs"])
def test_an_index_that_disagrees_with_the_packs_is_found(
    place: Path, digests: dict[str, str], lie: str
) -> None:
    with sqlite3.connect(place / "index.db") as db:
        db.execute(lie)
    with Vault.open(place) as vault:
        assert {finding.kind for finding in vault.verify()} == {FindingKind.INDEX_DISAGREES}


def test_a_pack_that_is_in_no_index_is_indexed_on_opening(place: Path, tmp_path: Path) -> None:
    with Vault.open(tmp_path / "other") as other:
        receipt = other.put({}, {"data": b"carried over"})
    Vault.open(place).close()
    assert receipt.pack is not None
    (tmp_path / "other" / "packs" / receipt.pack).rename(place / "packs" / receipt.pack)
    with Vault.open(place) as vault:
        assert vault.get_bytes(receipt.blobs["data"]) == b"carried over"


def test_a_forked_process_opens_a_connection_of_its_own(tmp_path: Path, in_another_process: Fork) -> None:
    """SQLite forbids to carry one across a fork."""
    database = IndexDatabase(tmp_path / "index.db")
    of_the_parent = database.read(id)

    def work() -> None:
        assert database.read(id) != of_the_parent

    assert in_another_process(work) == 0
    database.close()


def test_an_index_that_is_a_symbolic_link_is_not_followed(place: Path, tmp_path: Path) -> None:
    Vault.open(place).close()
    outside = tmp_path / "outside.db"
    (place / "index.db").rename(outside)
    (place / "index.db").symlink_to(outside)
    with pytest.raises(VaultError, match="symbolic link"):
        Vault.open(place)


def test_when_the_index_cannot_be_written_the_error_says_that_packs_are_safe(
    vault: Vault, place: Path
) -> None:
    earlier = vault.put_bytes(b"earlier")
    with sqlite3.connect(place / "index.db") as db:
        db.execute(
            "CREATE TRIGGER full BEFORE INSERT ON packs BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
        )
    with pytest.raises(VaultError, match=r"disk is full.*the packs are not affected"):
        vault.put_bytes(b"later")
    assert vault.get_bytes(earlier) == b"earlier"
