"""Whether a database still has the tables, columns, indexes and triggers that the migrations made.

The hash chain says whether facts were altered; this says whether somebody took away what keeps them from being
altered, or changed how they are kept.
"""

from __future__ import annotations

from sqlalchemy import Connection

from esper_es.ledger import postgresql_schema, sqlite_schema
from esper_es.ledger.deviations import Deviation


def schema_deviations(connection: Connection) -> list[Deviation]:
    """Compare the schema of an opened log with what the migrations of this release make; it only reads.

    Tables of other programs in the same database do not count.
    """
    if connection.dialect.name == "sqlite":
        return sqlite_schema.deviations(connection)
    return postgresql_schema.deviations(connection)
