"""An engine that only reads: it answers where nothing may be written, and refuses what would write."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from models import NESTED_MLP
from privileges import sealed
from training import adam, attached, train_run

from esper_es import Engine, LedgerError, UsageError, VaultError, fingerprint
from esper_es.vault import Vault


@pytest.fixture
def recorded(public_directory: Path) -> Path:
    """A directory with ``runs.db`` and ``runs.vault``; the model "model" has four versions."""
    place = public_directory / "project"
    place.mkdir()
    with Engine(f"sqlite:///{place / 'runs.db'}") as engine:
        run = attached(engine, NESTED_MLP, adam)
        train_run(run, NESTED_MLP)
        run.surgeon.modify_layer_width(layer_name="0", new_width=12)
        engine.replay("model")  # loads what it needs, which another user may not
    return place


@pytest.fixture
def reader(recorded: Path) -> Iterator[Engine]:
    with Engine(f"sqlite:///{recorded / 'runs.db'}", read_only=True) as engine:
        yield engine


def test_everything_can_be_read_where_nothing_may_be_written(recorded: Path) -> None:
    url = f"sqlite:///{recorded / 'runs.db'}"
    with Engine(url) as engine:
        expected = engine.history("model"), engine.audit.versions(), fingerprint(engine.replay("model"))
    with sealed(recorded), Engine(url, read_only=True) as engine:
        replayed = engine.replay("model")
        assert replayed.esper_replay.exact  # type: ignore[union-attr]
        assert (engine.history("model"), engine.audit.versions(), fingerprint(replayed)) == expected


WRITING: dict[str, Callable[[Engine], object]] = {
    "attach": lambda engine: attached(engine, NESTED_MLP, adam),
    "fork": lambda engine: engine.fork("model", name="other"),
}


@pytest.mark.parametrize("operation", WRITING)
def test_what_would_write_is_refused_with_one_clear_error(operation: str, reader: Engine) -> None:
    history = reader.history("model")
    with pytest.raises(UsageError, match=rf"opened read-only and can't {operation}"):
        WRITING[operation](reader)
    assert reader.history("model") == history
    assert reader.names() == ("model",)


def test_facts_cannot_be_appended_to_its_log_either(reader: Engine) -> None:
    with pytest.raises(LedgerError, match="was opened read-only"):
        reader.log.append(reader.history("model"))


def test_new_facts_of_a_writer_are_seen(recorded: Path, reader: Engine) -> None:
    version = reader.state("model").version
    with Engine(f"sqlite:///{recorded / 'runs.db'}") as writer:
        run = attached(writer, NESTED_MLP, adam)
        assert reader.state("model").version == run.version > version


def test_a_log_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="there is no log"):
        Engine(f"sqlite:///{tmp_path / 'runs.db'}", read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_facts_are_read_without_a_vault_and_tensors_are_not(recorded: Path, reader: Engine) -> None:
    shutil.rmtree(recorded / "runs.vault")
    assert reader.names() == ("model",)
    with pytest.raises(VaultError, match="there is no vault at"):
        reader.replay("model")
    assert not (recorded / "runs.vault").exists()


@pytest.mark.postgresql
def test_a_log_on_a_server_is_read(postgresql_url: str, tmp_path: Path) -> None:
    with Engine(postgresql_url, vault=tmp_path / "vault") as writer:
        before = attached(writer, NESTED_MLP, adam).fingerprint
    with Engine(postgresql_url, vault=tmp_path / "vault", read_only=True) as engine:
        assert fingerprint(engine.replay("model")) == before
        with pytest.raises(UsageError, match="read-only"):
            engine.fork("model", name="other")


def test_a_log_whose_vault_is_gone_says_so_when_it_is_opened_to_write(
    recorded: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (recorded / "runs.vault").rename(recorded / "elsewhere")
    with Engine(f"sqlite:///{recorded / 'runs.db'}"):
        assert f"there is no vault at {recorded / 'runs.vault'}" in caplog.text


def test_a_new_log_is_opened_without_a_word(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), Engine(url):
        assert caplog.text == ""


COLLISIONS: dict[str, tuple[str, str | None]] = {
    "the log has the name of its vault": ("x.vault", None),
    "the vault is the log": ("runs.db", "runs.db"),
    "the log lies inside of the vault": ("runs.vault/index.db", "runs.vault"),
    "a file is in the way of the vault": ("runs.db", "notes.txt"),
    "a file is in the way above the vault": ("runs.db", "notes.txt/vault"),
    "no path": ("runs.db", ""),
}


@pytest.mark.parametrize("case", COLLISIONS)
def test_a_vault_that_cannot_be_where_it_should_is_refused_and_leaves_nothing(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "runs.vault").mkdir()
    log, vault = COLLISIONS[case]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((UsageError, VaultError)):
        Engine(f"sqlite:///{log}", vault=vault)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_place_where_no_vault_can_be_made_is_named_and_no_log_is_left(public_directory: Path) -> None:
    free, barred = public_directory / "free", public_directory / "barred"
    free.mkdir(mode=0o777)
    barred.mkdir()
    with sealed(barred), pytest.raises(VaultError, match=f"{barred} is read-only"):
        Engine(f"sqlite:///{free / 'runs.db'}", vault=barred / "vault")
    assert list(free.iterdir()) == []


def test_a_vault_opened_to_read_refuses_what_would_write(recorded: Path) -> None:
    with Vault.open_read_only(recorded / "runs.vault") as vault:
        for write in (lambda: vault.put_bytes(b"new"), lambda: vault.collect_garbage(set())):
            with pytest.raises(VaultError, match="was opened read-only"):
                write()
