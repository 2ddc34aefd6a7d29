"""A process may be killed at any moment: stored content stays, new content is there whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from esper_es import failpoints
from esper_es.domain.errors import MissingTensorError
from esper_es.vault import Vault, digest_of

Fork = Callable[[Callable[[], object]], int]

BEFORE_RENAME = ["vault.hashed", "vault.writing", "vault.temporary_written", "vault.synced"]
AFTER_RENAME = ["vault.renamed", "vault.indexed"]
EARLIER = {"earlier": torch.arange(100.0)}
LATER = {"later": torch.arange(50.0), "twin": torch.full((3, 3), 2.0)}


@pytest.fixture
def killed_at(place: Path, in_another_process: Fork) -> Callable[[str], str]:
    """Store EARLIER, kill a process that stores LATER at the named point, and return EARLIER's digest."""

    def kill(point: str) -> str:
        with Vault.open(place) as vault:
            digest = vault.put_tensors(EARLIER)["earlier"]

        def work() -> None:
            os.environ[failpoints.VARIABLE] = point
            Vault.open(place).put(LATER)

        assert in_another_process(work) == -signal.SIGKILL
        return digest

    return kill


@pytest.mark.parametrize("point", BEFORE_RENAME + AFTER_RENAME)
def test_after_a_kill_the_vault_is_whole_and_earlier_content_readable(
    killed_at: Callable[[str], str], place: Path, point: str
) -> None:
    digest = killed_at(point)
    with Vault.open(place) as vault:
        assert vault.verify() == []
        assert torch.equal(vault.get(digest), EARLIER["earlier"])


@pytest.mark.parametrize("point", BEFORE_RENAME)
def test_killed_before_the_rename_nothing_of_the_new_content_is_there(
    killed_at: Callable[[str], str], place: Path, point: str
) -> None:
    killed_at(point)
    with Vault.open(place) as vault, pytest.raises(MissingTensorError):
        vault.get(digest_of(LATER["later"]))


@pytest.mark.parametrize("point", AFTER_RENAME)
def test_killed_after_the_rename_all_of_the_new_content_is_there(
    killed_at: Callable[[str], str], place: Path, point: str
) -> None:
    killed_at(point)
    with Vault.open(place) as vault:
        assert all(torch.equal(vault.get(digest_of(tensor)), tensor) for tensor in LATER.values())


@pytest.mark.parametrize("point", BEFORE_RENAME + AFTER_RENAME)
def test_after_a_kill_the_same_content_can_be_stored(
    killed_at: Callable[[str], str], place: Path, point: str
) -> None:
    killed_at(point)
    with Vault.open(place) as vault:
        digests = vault.put_tensors(LATER)
        assert torch.equal(vault.get(digests["later"]), LATER["later"])


def test_a_temporary_of_a_killed_writer_is_removed_after_the_grace_period(
    killed_at: Callable[[str], str], place: Path
) -> None:
    killed_at("vault.temporary_written")
    (temporary,) = (place / "packs").glob("*.tmp")
    hour_ago = time.time() - 3700
    os.utime(temporary, (hour_ago, hour_ago))
    Vault.open(place).close()
    assert not temporary.exists()


def test_a_young_temporary_is_left_alone_because_its_writer_may_live(
    killed_at: Callable[[str], str], place: Path
) -> None:
    killed_at("vault.temporary_written")
    (temporary,) = (place / "packs").glob("*.tmp")
    Vault.open(place).close()
    assert temporary.exists()


def test_a_vault_that_stays_open_finds_the_content_of_a_writer_killed_before_indexing(
    vault: Vault, killed_at: Callable[[str], str]
) -> None:
    killed_at("vault.renamed")
    assert torch.equal(vault.get(digest_of(LATER["later"])), LATER["later"])


def test_a_fresh_interpreter_is_killed_by_the_environment_variable_alone(place: Path) -> None:
    script = "import sys; from esper_es.vault import Vault; Vault.open(sys.argv[1]).put_bytes(b'data')"
    environment = {**os.environ, failpoints.VARIABLE: "vault.synced"}
    ended = subprocess.run([sys.executable, "-c", script, str(place)], env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    with Vault.open(place) as vault:
        assert vault.digests() == set()
