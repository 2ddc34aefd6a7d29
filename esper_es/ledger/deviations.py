"""Places where a schema is not the one that the migrations made, and whose schema it is."""

from __future__ import annotations

from attrs import frozen

from esper_es.ledger import tables as ledger_tables  # noqa: F401  (registers them in the metadata)
from esper_es.ledger.revisions import VERSION_TABLE
from esper_es.projections.audit import tables as audit_tables  # noqa: F401  (likewise)
from esper_es.projections.schema import metadata

OURS = frozenset({*metadata.tables, VERSION_TABLE})
"""Names of the tables of a log."""


@frozen
class Deviation:
    """One object of a database that is missing, is not what it was, or was added.

    Attributes:
        table: that it belongs to.
        message: for a person.
        harmless: whether nothing that is recorded depends on it.
    """

    table: str
    message: str
    harmless: bool = False
