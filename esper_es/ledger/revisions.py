"""Which schema revision a database has, which ones this release knows, and how to upgrade.

A revision is a file `migrations/versions/NNNN_title.py` whose revision id is `NNNN`; each builds on the one
before. So the newest is known from the file names, and opening a log that has it never imports alembic.
"""

from __future__ import annotations

import logging
import pkgutil
from io import StringIO
from pathlib import Path
from threading import Lock
from typing import Final

from sqlalchemy import Column, Connection, MetaData, String, Table, inspect, select, text

import esper_es.migrations
import esper_es.migrations.versions

# Not alembic's default name: a log may share its PostgreSQL database with a program that uses alembic too.
VERSION_TABLE: Final = "esper_es_revision"

_REVISION: Final = Table(VERSION_TABLE, MetaData(), Column("version_num", String(32), primary_key=True))
_ADVISORY_KEY: Final = int.from_bytes(b"esper-es", "big", signed=True)
_logger = logging.getLogger(__name__)
_one_upgrade = Lock()


def known_revisions() -> tuple[str, ...]:
    """Ids of the revisions shipped with this release, oldest first."""
    modules = pkgutil.iter_modules(esper_es.migrations.versions.__path__)
    return tuple(sorted(module.name.partition("_")[0] for module in modules))


def stored_revision(connection: Connection) -> str | None:
    """Revision of the connected database; None if it holds no log."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.scalar(select(_REVISION.c.version_num))


def lock_revision(connection: Connection) -> None:
    """Keep other processes from upgrading this database until the transaction ends.

    On SQLite the transaction of `connections.writing` does so by itself.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_KEY})


def upgrade_schema(connection: Connection) -> None:
    """Run the missing revisions inside the connection's transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", _scripts().replace("%", "%%"))
    config.attributes["connection"] = connection
    _logger.info("upgrading the schema to revision %s", known_revisions()[-1])
    # alembic keeps the running environment in a global of its module.
    with _one_upgrade:
        command.upgrade(config, "head")


def migration_sql(dialect: str) -> str:
    """Return what all revisions together run on a new database, as SQL; nothing is connected."""
    from alembic.migration import MigrationContext
    from alembic.operations import Operations
    from alembic.script import ScriptDirectory

    written = StringIO()
    options = {"as_sql": True, "output_buffer": written, "literal_binds": True}
    plain = {"paramstyle": "named"}  # others write % twice
    context = MigrationContext.configure(dialect_name=dialect, dialect_opts=plain, opts=options)
    revisions = list(ScriptDirectory(_scripts()).walk_revisions())
    with _one_upgrade, Operations.context(context):
        for revision in reversed(revisions):
            revision.module.upgrade()
    return written.getvalue()


def _scripts() -> str:
    return str(Path(esper_es.migrations.__path__[0]).absolute())
