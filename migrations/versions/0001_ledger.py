"""The ledger: facts, heads, followers, and the triggers that keep facts as they were written.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

# INSERT OR REPLACE deletes the old row without firing its DELETE trigger: hence the one on INSERT.
SQLITE_TRIGGERS = (
    """
    CREATE TRIGGER facts_refuse_update BEFORE UPDATE ON facts
    BEGIN SELECT RAISE(ABORT, 'facts are append-only: UPDATE is refused'); END
    """,
    """
    CREATE TRIGGER facts_refuse_delete BEFORE DELETE ON facts
    BEGIN SELECT RAISE(ABORT, 'facts are append-only: DELETE is refused'); END
    """,
    """
    CREATE TRIGGER facts_refuse_replace BEFORE INSERT ON facts
    WHEN EXISTS (
        SELECT 1 FROM facts
        WHERE sequence = NEW.sequence OR (model_id = NEW.model_id AND version = NEW.version)
    )
    BEGIN SELECT RAISE(ABORT, 'facts are append-only: this version is already recorded'); END
    """,
    """
    CREATE TRIGGER heads_refuse_retreat BEFORE UPDATE ON heads
    WHEN NEW.model_id <> OLD.model_id OR NEW.version <= OLD.version
    BEGIN SELECT RAISE(ABORT, 'heads only move forward'); END
    """,
    """
    CREATE TRIGGER heads_refuse_delete BEFORE DELETE ON heads
    BEGIN SELECT RAISE(ABORT, 'heads only move forward: DELETE is refused'); END
    """,
    """
    CREATE TRIGGER heads_refuse_replace BEFORE INSERT ON heads
    WHEN EXISTS (SELECT 1 FROM heads WHERE model_id = NEW.model_id)
    BEGIN SELECT RAISE(ABORT, 'heads only move forward: this model has one'); END
    """,
)

POSTGRESQL_TRIGGERS = (
    """
    CREATE FUNCTION esper_es_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION '% are append-only: % is refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'integrity_constraint_violation';
    END $$
    """,
    """
    CREATE TRIGGER facts_refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON facts
    FOR EACH STATEMENT EXECUTE FUNCTION esper_es_refuse_change()
    """,
    """
    CREATE FUNCTION esper_es_refuse_retreat() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.model_id <> OLD.model_id OR NEW.version <= OLD.version THEN
            RAISE EXCEPTION 'heads only move forward'
            USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER heads_refuse_retreat BEFORE UPDATE ON heads
    FOR EACH ROW EXECUTE FUNCTION esper_es_refuse_retreat()
    """,
    """
    CREATE TRIGGER heads_refuse_delete BEFORE DELETE OR TRUNCATE ON heads
    FOR EACH STATEMENT EXECUTE FUNCTION esper_es_refuse_change()
    """,
)


def upgrade() -> None:
    op.create_table(
        "facts",
        sa.Column(
            "sequence",
            NUMBER,
            autoincrement=True,
            nullable=False,
            comment="position in the whole log; only grows",
        ),
        sa.Column(
            "model_id", sa.String(36), nullable=False, comment="UUID of the model, lower case with hyphens"
        ),
        sa.Column(
            "version", sa.Integer(), nullable=False, comment="version of the model that this fact led to"
        ),
        sa.Column(
            "name", sa.Text(), nullable=False, comment="stable name of the fact, e.g. surgery.layer_added"
        ),
        sa.Column(
            "schema",
            sa.Integer(),
            nullable=False,
            comment="schema version of the body; 0 if the topic has none",
        ),
        sa.Column(
            "at", sa.String(32), nullable=False, comment="UTC time of the append, ISO 8601, microseconds"
        ),
        sa.Column(
            "body",
            sa.LargeBinary(),
            nullable=False,
            comment="the exact bytes that were hashed: JSON in UTF-8",
        ),
        sa.Column(
            "previous_hash",
            sa.String(64),
            nullable=False,
            comment="hash of the model's fact before this one",
        ),
        sa.Column(
            "hash",
            sa.String(64),
            nullable=False,
            comment="SHA-256 over all of the above except sequence, in hex",
        ),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_facts")),
        sa.UniqueConstraint("model_id", "version", name=op.f("uq_facts_model_id_version")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "heads",
        sa.Column("model_id", sa.String(36), nullable=False, comment="UUID of the model"),
        sa.Column("version", sa.Integer(), nullable=False, comment="version of its newest fact"),
        sa.Column("hash", sa.String(64), nullable=False, comment="hash of its newest fact"),
        sa.PrimaryKeyConstraint("model_id", name=op.f("pk_heads")),
    )
    op.create_table(
        "followers",
        sa.Column("name", sa.String(200), nullable=False, comment="name of the read model"),
        sa.Column(
            "position",
            NUMBER,
            nullable=False,
            comment="sequence of the last fact it has applied; 0: none",
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_followers")),
    )
    postgresql = op.get_context().dialect.name == "postgresql"
    for statement in POSTGRESQL_TRIGGERS if postgresql else SQLITE_TRIGGERS:
        op.execute(statement)


def downgrade() -> None:
    raise RuntimeError(
        "revision 0001 creates the log itself: going below it would delete every fact. "
        "To be rid of the log, delete its database."
    )
