"""Laws: the tables say at every version what the aggregate says, and the log alone gives them back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine

from esper_es.domain.envelope import Envelope
from esper_es.domain.facts import RolledBack
from esper_es.projections.audit import project, rebuild
from esper_es.projections.audit.architecture_rows import architecture_at
from esper_es.projections.audit.stretches import ARCHITECTURE, SEEDS

from .contents import contents
from .random_histories import RandomHistory, histories

LAWFUL = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@contextmanager
def undone(engine: Engine) -> Iterator[Connection]:
    """A connection whose transaction is rolled back in the end."""
    with engine.connect() as connection, connection.begin() as transaction:
        yield connection
        transaction.rollback()


def in_parts(history: RandomHistory, cuts: list[int]) -> Iterator[list[Envelope]]:
    """The facts of a history, as if they had been appended a few at a time."""
    rest = history.envelopes
    for cut in cuts:
        yield rest[:cut]
        rest = rest[cut:]
    yield rest


sizes = st.lists(st.integers(1, 4), max_size=20)


@given(history=histories(), cuts=sizes)
@LAWFUL
def test_rows_valid_at_a_version_are_its_architecture(
    shared_engine: Engine, history: RandomHistory, cuts: list[int]
) -> None:
    with undone(shared_engine) as connection:
        for part in in_parts(history, cuts):
            project(connection, part)
        told = {
            version: architecture_at(connection, str(history.state.id), version).fingerprint
            for version in history.states
        }
    assert told == {version: state.architecture.fingerprint for version, state in history.states.items()}


@given(history=histories())
@LAWFUL
def test_seeds_valid_at_a_version_are_those_of_the_aggregate(
    shared_engine: Engine, history: RandomHistory
) -> None:
    with undone(shared_engine) as connection:
        project(connection, history.envelopes)
        told = {
            version: {
                name: tuple(entry.content[column] for column in ("layer", "stage", "kernel", "path"))
                for name, entry in SEEDS.at(connection, str(history.state.id), version).items()
            }
            for version in history.states
        }
    assert told == {
        version: {
            name: (seed.layer, seed.stage, seed.kernel, seed.path) for name, seed in state.seeds.items()
        }
        for version, state in history.states.items()
    }


@given(history=histories())
@LAWFUL
def test_a_rollback_brings_back_what_was_true_and_whom_it_was_owed_to(
    shared_engine: Engine, history: RandomHistory
) -> None:
    returns = {e.version: e.fact.to_version for e in history.envelopes if isinstance(e.fact, RolledBack)}
    with undone(shared_engine) as connection:
        project(connection, history.envelopes)
        for table in (*ARCHITECTURE, SEEDS):
            at = {
                version: table.at(connection, str(history.state.id), version)
                for version in {*returns, *returns.values()}
            }
            assert all(at[version] == at[target] for version, target in returns.items())


@given(history=histories(), cuts=sizes)
@LAWFUL
def test_rebuilding_gives_the_same_rows(
    shared_engine: Engine, history: RandomHistory, cuts: list[int]
) -> None:
    with undone(shared_engine) as connection:
        for part in in_parts(history, cuts):
            project(connection, part)
        before = contents(connection)
        rebuild(connection, iter(history.envelopes))
        assert contents(connection) == before
