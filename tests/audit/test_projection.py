"""The audit tables stand and fall with the facts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import sleep

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, delete, select

from esper_es.domain import surgery_commands
from esper_es.domain.edits import ResizeTensor
from esper_es.domain.envelope import Envelope
from esper_es.domain.errors import LedgerError, UsageError
from esper_es.domain.facts import SurgeryRefused
from esper_es.domain.index_map import IndexMap
from esper_es.ledger.heads import heads
from esper_es.ledger.log import Log
from esper_es.ledger.revisions import VERSION_TABLE
from esper_es.projections.audit import Audit, project
from esper_es.projections.audit.architecture_tables import layers
from esper_es.projections.audit.log_tables import history
from esper_es.projections.audit.surgery_tables import surgeries
from esper_es.projections.audit.tables import TABLES
from esper_es.projections.schema import metadata

from .contents import contents
from .digits import captured
from .story import ADA, Teller, change, tell, told_envelopes, widen


def test_migrations_build_exactly_the_audit_tables(engine: Engine) -> None:
    with engine.connect() as connection:
        options = {"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []


def test_every_table_and_column_says_what_it_means() -> None:
    silent = [table.name for table in TABLES if not table.comment]
    silent += [str(column) for table in TABLES for column in table.columns if not column.comment]
    assert silent == []


def test_the_tables_have_seen_every_fact(engine: Engine) -> None:
    tell(engine)
    with engine.connect() as connection:
        newest = {model: head.version for model, head in heads(connection).items()}
    assert Audit(engine).versions() == newest


def test_a_failing_projection_takes_the_facts_back(engine: Engine) -> None:
    def fail(connection: Connection, envelopes: Sequence[Envelope]) -> None:
        project(connection, envelopes)
        raise RuntimeError("broken")

    teller = Teller.registering(engine, "digits")
    teller.log = Log(engine, [fail])
    with pytest.raises(RuntimeError):
        teller.record(ADA, captured())
    with engine.connect() as connection:
        assert [fact.version for fact in told_envelopes(teller)] == list(
            connection.scalars(select(history.c.version))
        )


def test_rebuilding_a_log_of_several_models_gives_the_same_rows(engine: Engine) -> None:
    tellers = [tell(engine, "digits"), tell(engine, "another")]
    with engine.connect() as connection:
        before = contents(connection)
    with engine.begin() as connection:
        for table in reversed(TABLES):
            connection.execute(delete(table))
    Audit(engine).rebuild(fact for teller in tellers for fact in told_envelopes(teller))
    with engine.connect() as connection:
        assert contents(connection) == before


def test_appends_wait_while_the_tables_are_rebuilt(engine: Engine) -> None:
    teller = Teller.registering(engine, "digits")
    before = told_envelopes(teller)
    overtaken: list[bool] = []
    with ThreadPoolExecutor(1) as pool:

        def facts() -> Iterator[Envelope]:
            appending = pool.submit(teller.record, ADA, captured())
            sleep(0.2)
            overtaken.append(appending.done())
            yield from before

        Audit(engine).rebuild(facts())
    assert (overtaken, Audit(engine).versions()) == ([False], {teller.state.id: 2})


def test_rebuilding_from_too_few_facts_is_refused_and_changes_nothing(engine: Engine) -> None:
    teller = tell(engine)
    with engine.connect() as connection:
        before = contents(connection)
    with pytest.raises(UsageError, match=r"up to version \d+, the facts given end at 3: give every fact"):
        Audit(engine).rebuild(told_envelopes(teller)[:3])
    with engine.connect() as connection:
        assert contents(connection) == before


def test_facts_that_leave_a_gap_are_not_projected(engine: Engine) -> None:
    teller = tell(engine)
    with engine.begin() as connection:
        for table in reversed(TABLES):
            connection.execute(delete(table))
    with pytest.raises(LedgerError, match=r"seen model .* up to version 0, so version \d+ cannot follow"):
        teller.record(ADA, captured())


def test_tables_that_somebody_changed_are_noticed_by_the_next_surgery(engine: Engine) -> None:
    teller = Teller.registering(engine, "digits")
    with engine.begin() as connection:
        connection.execute(delete(layers).where(layers.c.path == "first"))
    with pytest.raises(
        LedgerError, match=r"version 3 .*does not fit the audit tables .*rebuild them from the log"
    ):
        widen(teller)


def test_a_text_with_a_nul_character_is_kept_readable(engine: Engine) -> None:
    teller = Teller.registering(engine, "digits")
    fact = SurgeryRefused(
        operation="add_layer", target="a\0b", arguments={"name": "a\0b"}, check="name", reason="bad name"
    )
    teller.record(ADA, fact)
    with engine.connect() as connection:
        assert connection.scalar(select(surgeries.c.target)) == "a\N{SYMBOL FOR NULL}b"


def test_a_narrowed_layer_lists_the_units_that_stayed(engine: Engine) -> None:
    teller = Teller.registering(engine, "digits")
    kept = [0, 2, 3, 7]
    narrowing = change(
        ResizeTensor("first.weight", 0, IndexMap.of(kept)),
        ResizeTensor("first.bias", 0, IndexMap.of(kept)),
        ResizeTensor("last.weight", 1, IndexMap.of(kept)),
        manifest="blake3:wide",
    )
    facts = surgery_commands.modify_layer_width(
        teller.state,
        narrowing,
        layer_name="first",
        old_width=8,
        new_width=4,
        initialization="kaiming",
        kept_units=kept,
    )
    teller.record(ADA, *facts)
    with engine.connect() as connection:
        details = connection.scalar(select(surgeries.c.details))
    assert details["kept_units"] == kept
