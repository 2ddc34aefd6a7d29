"""A vault that is only read: same answers, and nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from privileges import sealed, without_privileges

from esper_es.domain.errors import MissingTensorError, VaultError
from esper_es.vault import FindingKind, Vault, digest_of

TENSOR = torch.arange(6.0)


@pytest.fixture
def place(public_directory: Path) -> Path:
    """A vault that holds one tensor, which nobody may write to."""
    place = public_directory / "runs.vault"
    with Vault.open(place) as vault:
        vault.put_tensors({"a": TENSOR})
    return place


def test_it_gives_back_what_was_stored(place: Path) -> None:
    with sealed(place), Vault.open_read_only(place) as vault:
        assert torch.equal(vault.get(digest_of(TENSOR)), TENSOR)
        assert vault.digests() == {digest_of(TENSOR)}
        assert vault.verify() == []


@pytest.mark.parametrize("content", [None, b"no database" * 500], ids=["missing", "damaged"])
def test_an_index_that_cannot_be_used_is_not_needed(place: Path, content: bytes | None) -> None:
    (place / "index.db").unlink()
    if content is not None:
        (place / "index.db").write_bytes(content)
    with sealed(place), Vault.open_read_only(place) as vault:
        assert vault.contains(digest_of(TENSOR))


def test_what_others_store_meanwhile_is_found(place: Path) -> None:
    with Vault.open_read_only(place) as reader, Vault.open(place) as writer:
        writer.put_tensors({"b": TENSOR + 1})
        assert torch.equal(reader.get(digest_of(TENSOR + 1)), TENSOR + 1)


def test_a_pack_that_vanished_is_found(place: Path) -> None:
    (pack,) = (place / "packs").iterdir()
    pack.unlink()
    with sealed(place), Vault.open_read_only(place) as vault:
        assert [finding.kind for finding in vault.verify()] == [FindingKind.VANISHED_PACK]
        with pytest.raises(MissingTensorError):
            vault.get(digest_of(TENSOR))


def test_one_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(VaultError, match="there is no vault"):
        Vault.open_read_only(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_one_that_may_not_be_looked_into_is_named(place: Path) -> None:
    place.chmod(0o700)
    with without_privileges(), pytest.raises(VaultError, match=f"could not open a vault at {place}"):
        Vault.open_read_only(place)
