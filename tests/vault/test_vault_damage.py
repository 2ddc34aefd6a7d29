"""Every altered or lost byte of a pack is detected, and costs nobody the other packs."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from blake3 import blake3

from esper_es.domain.errors import IntegrityFailure, MissingTensorError, VaultError
from esper_es.vault import FindingKind, Receipt, Vault
from esper_es.vault.format import MAGIC, TRAILER_SIZE

Packs = Callable[[Path], list[Path]]
DropIndex = Callable[[Path], None]


class Scene:
    """A vault with an older pack and a younger one, whose file is damaged on purpose."""

    def __init__(self, place: Path, older: str, younger: Receipt) -> None:
        self.place = place
        self.older = older
        self.tensor = younger.tensors["tensor"]
        self.digests = {*younger.tensors.values(), *younger.blobs.values()}
        assert younger.pack is not None
        self.pack = younger.pack
        self.file = place / "packs" / younger.pack
        self.content = self.file.read_bytes()

    def regions(self) -> dict[str, int]:
        """An offset inside each part of the pack."""
        size = len(self.content)
        (footer,) = struct.unpack_from("<Q", self.content, size - TRAILER_SIZE + 32)
        trailer = size - TRAILER_SIZE
        return {
            "tensor": 3,
            "padding": 20,
            "bytes": 64,
            "footer": trailer - footer + 5,
            "footer digest": trailer + 7,
            "footer length": trailer + 32,
            "format version": trailer + 40,
            "reserved": trailer + 45,
            "magic": size - 3,
        }

    def flip(self, offset: int, bit: int = 0) -> None:
        content = bytearray(self.content)
        content[offset] ^= 1 << bit
        self.file.write_bytes(content)


@pytest.fixture
def scene(place: Path) -> Iterator[Scene]:
    with Vault.open(place) as vault:
        older = vault.put_tensors({"older": torch.arange(3.0)})["older"]
        yield Scene(
            place, older, vault.put({"tensor": torch.tensor([1.0, 2.0, 3.0])}, {"bytes": b"manifest"})
        )


REGIONS = [
    "tensor",
    "padding",
    "bytes",
    "footer",
    "footer digest",
    "footer length",
    "format version",
    "reserved",
    "magic",
]


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("region", REGIONS)
def test_one_flipped_bit_in_any_region_is_found(
    scene: Scene, drop_index: DropIndex, region: str, indexed: bool
) -> None:
    scene.flip(scene.regions()[region])
    if not indexed:
        drop_index(scene.place)
    with Vault.open(scene.place) as vault:
        assert {finding.pack for finding in vault.verify()} == {scene.pack}


def test_every_single_flipped_byte_is_found(scene: Scene) -> None:
    with Vault.open(scene.place) as vault:
        undetected = []
        for offset in range(len(scene.content)):
            scene.flip(offset, bit=offset % 8)
            if not vault.verify():
                undetected.append(offset)
    assert undetected == []


def test_a_pack_cut_short_at_any_byte_is_found(scene: Scene) -> None:
    with Vault.open(scene.place) as vault:
        undetected = []
        for size in range(len(scene.content)):
            scene.file.write_bytes(scene.content[:size])
            if not vault.verify():
                undetected.append(size)
    assert undetected == []


def test_a_pack_cut_short_at_any_byte_leaves_older_packs_readable(
    scene: Scene, drop_index: DropIndex
) -> None:
    for size in range(0, len(scene.content), 7):
        scene.file.write_bytes(scene.content[:size])
        drop_index(scene.place)
        with Vault.open(scene.place) as vault:
            assert torch.equal(vault.get(scene.older), torch.arange(3.0))


@pytest.mark.parametrize("region", REGIONS)
def test_damage_in_one_pack_leaves_older_packs_readable(
    scene: Scene, drop_index: DropIndex, region: str
) -> None:
    scene.flip(scene.regions()[region])
    drop_index(scene.place)
    with Vault.open(scene.place) as vault:
        assert torch.equal(vault.get(scene.older), torch.arange(3.0))


def test_bytes_added_to_a_pack_are_found(scene: Scene) -> None:
    scene.file.write_bytes(scene.content + b"\0")
    with Vault.open(scene.place) as vault:
        assert [finding.kind for finding in vault.verify()] == [FindingKind.DAMAGED_PACK]


def test_a_damaged_blob_is_found_by_its_digest(scene: Scene) -> None:
    scene.flip(scene.regions()["tensor"])
    with Vault.open(scene.place) as vault:
        (finding,) = vault.verify()
    assert (finding.kind, finding.digest) == (FindingKind.DAMAGED_BLOB, scene.tensor)


def test_reading_a_damaged_tensor_fails_with_its_digest_and_pack(scene: Scene) -> None:
    scene.flip(scene.regions()["tensor"])
    with (
        Vault.open(scene.place) as vault,
        pytest.raises(IntegrityFailure, match=f"{scene.tensor}.*{scene.pack}"),
    ):
        vault.get(scene.tensor)


def test_reading_a_damaged_tensor_fails_every_time(scene: Scene) -> None:
    scene.flip(scene.regions()["tensor"])
    with Vault.open(scene.place) as vault:
        for _ in range(2):
            with pytest.raises(IntegrityFailure):
                vault.get(scene.tensor)


def test_reading_from_a_pack_cut_short_under_an_open_vault_fails_cleanly(scene: Scene) -> None:
    with Vault.open(scene.place) as vault:
        scene.file.write_bytes(scene.content[:4])
        with pytest.raises(IntegrityFailure, match="cut short"):
            vault.get(scene.tensor)


def test_a_pack_with_a_damaged_footer_is_still_read_through_the_index(scene: Scene) -> None:
    scene.flip(scene.regions()["footer"])
    with Vault.open(scene.place) as vault:
        assert torch.equal(vault.get(scene.tensor), torch.tensor([1.0, 2.0, 3.0]))


def test_content_lost_with_a_damaged_footer_is_missing_and_the_message_names_the_pack(
    scene: Scene, drop_index: DropIndex
) -> None:
    scene.flip(scene.regions()["footer"])
    drop_index(scene.place)
    with Vault.open(scene.place) as vault, pytest.raises(MissingTensorError, match=scene.pack):
        vault.get(scene.tensor)


@pytest.mark.parametrize("region", ["tensor", "footer"])
def test_content_known_to_be_damaged_is_stored_anew_by_the_next_capture(
    scene: Scene, drop_index: DropIndex, region: str
) -> None:
    scene.flip(scene.regions()[region])
    with Vault.open(scene.place) as vault:
        vault.verify()
        vault.put_tensors({"again": torch.tensor([1.0, 2.0, 3.0])})
    drop_index(scene.place)
    with Vault.open(scene.place) as vault:
        assert torch.equal(vault.get(scene.tensor), torch.tensor([1.0, 2.0, 3.0]))


def test_a_failed_read_is_remembered_as_damage(scene: Scene) -> None:
    scene.flip(scene.regions()["tensor"])
    with Vault.open(scene.place) as vault:
        with pytest.raises(IntegrityFailure):
            vault.get(scene.tensor)
        assert not vault.contains(scene.tensor)


def test_damage_stays_known_when_every_footer_is_read_again(scene: Scene) -> None:
    scene.flip(scene.regions()["tensor"])
    with Vault.open(scene.place) as vault:
        vault.verify()
        with pytest.raises(MissingTensorError):
            vault.get("b3:" + "0" * 64)
        assert not vault.contains(scene.tensor)


def test_a_pack_restored_from_a_backup_counts_again_once_verified(scene: Scene) -> None:
    with Vault.open(scene.place) as vault:
        scene.flip(scene.regions()["tensor"])
        vault.verify()
        scene.file.write_bytes(scene.content)
        assert vault.verify() == []
        assert vault.contains(scene.tensor)


def test_an_intact_copy_is_read_when_another_one_is_damaged(scene: Scene) -> None:
    twin = scene.file.with_name("0" * 32 + ".pack")
    shutil.copy(scene.file, twin)
    scene.flip(scene.regions()["tensor"])
    with Vault.open(scene.place) as vault:
        assert torch.equal(vault.get(scene.tensor), torch.tensor([1.0, 2.0, 3.0]))


def test_an_unreadable_pack_is_warned_about_once(
    scene: Scene, drop_index: DropIndex, caplog: pytest.LogCaptureFixture
) -> None:
    scene.flip(scene.regions()["footer"])
    drop_index(scene.place)
    with Vault.open(scene.place) as vault:
        vault.put_bytes(b"one")
        vault.put_bytes(b"two")
    assert len([record for record in caplog.records if scene.pack in record.getMessage()]) == 1


def test_a_pack_that_was_deleted_by_hand_is_found(scene: Scene) -> None:
    scene.file.unlink()
    with Vault.open(scene.place) as vault:
        assert [finding.kind for finding in vault.verify()] == [FindingKind.VANISHED_PACK]


def test_content_of_a_pack_deleted_by_hand_is_stored_anew(scene: Scene) -> None:
    scene.file.unlink()
    with Vault.open(scene.place) as vault:
        vault.put_tensors({"again": torch.tensor([1.0, 2.0, 3.0])})
        assert torch.equal(vault.get(scene.tensor), torch.tensor([1.0, 2.0, 3.0]))


def test_content_of_a_pack_that_was_cut_short_is_stored_anew_without_anyone_verifying(scene: Scene) -> None:
    scene.file.write_bytes(scene.content[:-1])
    with Vault.open(scene.place) as vault:
        assert vault.put_tensors({"again": torch.tensor([1.0, 2.0, 3.0])}) == {"again": scene.tensor}
        assert vault.contains(scene.tensor)


def ending_of_version(version: int, footer: bytes = b'{"blobs":[]}') -> bytes:
    rest = struct.pack("<QI4x16s", len(footer), version, MAGIC)
    return footer + blake3(footer + rest).digest() + rest


def test_a_pack_of_a_newer_format_is_refused_with_what_to_do(scene: Scene) -> None:
    scene.file.with_name("0" * 32 + ".pack").write_bytes(ending_of_version(2))
    with pytest.raises(VaultError, match="format 2, this release reads format 1: upgrade"):
        Vault.open(scene.place)


def test_a_pack_of_a_newer_format_that_appears_later_is_found_by_verify(scene: Scene) -> None:
    with Vault.open(scene.place) as vault:
        scene.file.with_name("0" * 32 + ".pack").write_bytes(ending_of_version(2))
        assert [finding.kind for finding in vault.verify()] == [FindingKind.UNREADABLE_PACK]


@pytest.mark.parametrize(
    "footer",
    [
        b"no json",
        b"[]",
        b"{}",
        b'{"blobs":[{}]}',
        b'{"blobs":[{"digest":"sha256:x","dtype":null,"shape":null,"offset":0,"length":0}]}',
        b'{"blobs":[{"digest":"b3:' + b"0" * 64 + b'","dtype":"float32","shape":[2],"offset":0,"length":4}]}',
        b'{"blobs":[{"digest":"b3:'
        + b"0" * 64
        + b'","dtype":"float32","shape":[-1],"offset":0,"length":4}]}',
        b'{"blobs":[{"digest":"b3:'
        + b"0" * 64
        + b'","dtype":"uint8","shape":[64],"offset":-64,"length":64}]}',
        b'{"blobs":[{"digest":"sha256:'
        + b"0" * 64
        + b'","dtype":null,"shape":null,"offset":0,"length":9999}]}',
    ],
)
def test_a_footer_that_makes_no_sense_is_damage_even_with_a_right_digest(
    vault: Vault, place: Path, footer: bytes
) -> None:
    (place / "packs" / ("0" * 32 + ".pack")).write_bytes(ending_of_version(1, footer))
    assert [finding.kind for finding in vault.verify()] == [FindingKind.DAMAGED_PACK]


def test_a_dtype_of_a_newer_torch_costs_only_its_own_tensors(vault: Vault, place: Path) -> None:
    digest = "b3:" + "0" * 64
    footer = (
        b'{"blobs":[{"digest":"%s","dtype":"float3","shape":[0],"offset":0,"length":0}]}' % digest.encode()
    )
    (place / "packs" / ("0" * 32 + ".pack")).write_bytes(ending_of_version(1, footer))
    with pytest.raises(VaultError, match="float3, which this torch does not have: upgrade torch"):
        vault.get(digest)
