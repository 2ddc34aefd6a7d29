"""Alembic environment.

`esper_es.ledger.revisions.upgrade_schema` passes its connection in `config.attributes["connection"]`. On the
command line the database is named by `-x url=URL` or by the environment variable ESPER_ES_DB.
"""

from __future__ import annotations

import os
from logging.config import fileConfig

from alembic import context
from sqlalchemy import Connection

from esper_es.domain.errors import LedgerError
from esper_es.ledger import tables as ledger_tables  # noqa: F401  (registers them in the metadata)
from esper_es.ledger.connections import connect_engine, writing
from esper_es.ledger.revisions import VERSION_TABLE, lock_revision
from esper_es.ledger.urls import database_url
from esper_es.projections.audit import tables as audit_tables  # noqa: F401  (likewise)
from esper_es.projections.schema import metadata


def named_url() -> str:
    """The URL named on the command line."""
    url = context.get_x_argument(as_dictionary=True).get("url") or os.environ.get("ESPER_ES_DB")
    if not url:
        raise LedgerError("no database named: pass -x url=sqlite:///runs.db or set ESPER_ES_DB")
    return str(url)


def is_ours(name: str | None, kind: str, _parents: object) -> bool:
    """Whether autogenerate should look at this: other programs may keep tables in the same database."""
    return kind != "table" or name in metadata.tables


def migrate(connection: Connection) -> None:
    """Run the requested alembic command; the caller's transaction covers it."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        include_name=is_ours,
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()


def print_sql() -> None:
    """`alembic upgrade --sql`: write the statements out instead of running them."""
    context.configure(
        url=database_url(named_url()),
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        literal_binds=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def migrate_named_database() -> None:
    """Connect to the database named on the command line and migrate it in one transaction."""
    engine = connect_engine(database_url(named_url()))
    try:
        with writing(engine) as connection:
            lock_revision(connection)
            migrate(connection)
    finally:
        engine.dispose()


if context.config.cmd_opts and context.config.config_file_name:  # on the command line: show what is done
    fileConfig(context.config.config_file_name, disable_existing_loggers=False)

given = context.config.attributes.get("connection")
if given is not None:
    migrate(given)
elif context.is_offline_mode():
    print_sql()
else:
    migrate_named_database()
