"""The contract tests that `eventsourcing` publishes, on a file, in memory and on PostgreSQL.

Not run, because the ledger does not have what they test:

- TrackingRecorderTestCase, ProcessRecorderTestCase: positions are kept by `followers.follow`, by
  compare-and-set in the read model's own transaction (see test_followers).
- InfrastructureFactoryTestCase: nothing is configured by environment variables.
- TranscoderTestCase: bodies are encoded elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import eventsourcing.tests.persistence as contract
import pytest
from sqlalchemy import Engine

from esper_es.ledger.database import open_database
from esper_es.ledger.kernel import AggregateRecorder, StoredEvent
from esper_es.ledger.recorder import SQLAlchemyRecorder


class WithoutSequenceNumbers(AggregateRecorder):
    """The recorder as an AggregateRecorder.

    That contract says `insert_events` returns None, the ApplicationRecorder's says it returns the sequence
    numbers; the same class cannot do both. All else of the contract is tested on the recorder itself.
    """

    def __init__(self, recorder: SQLAlchemyRecorder) -> None:
        self._recorder = recorder

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> None:
        self._recorder.insert_events(stored_events, **kwargs)

    def select_events(self, originator_id: UUID | str, **kwargs: Any) -> list[StoredEvent]:
        return self._recorder.select_events(originator_id, **kwargs)


class OnFile:
    __test__ = True
    engine: Engine

    @pytest.fixture(autouse=True)
    def _open(self, sqlite_url: str) -> Iterator[None]:
        self.engine = open_database(sqlite_url)
        yield
        self.engine.dispose()


class InMemory:
    __test__ = True
    engine: Engine

    @pytest.fixture(autouse=True)
    def _open(self) -> Iterator[None]:
        self.engine = open_database(":memory:")
        yield
        self.engine.dispose()


@pytest.mark.postgresql
class OnPostgreSQL:
    __test__ = True
    engine: Engine

    @pytest.fixture(autouse=True)
    def _open(self, postgresql_url: str) -> Iterator[None]:
        self.engine = open_database(postgresql_url)
        yield
        self.engine.dispose()


class Aggregate(contract.AggregateRecorderTestCase):
    __test__ = False
    engine: Engine

    def create_recorder(self) -> AggregateRecorder:
        return WithoutSequenceNumbers(SQLAlchemyRecorder(self.engine))


class Application(contract.ApplicationRecorderTestCase[SQLAlchemyRecorder]):
    __test__ = False
    engine: Engine

    def create_recorder(self) -> SQLAlchemyRecorder:
        return SQLAlchemyRecorder(self.engine)

    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class NonInterleaving(contract.NonInterleavingNotificationIDsBaseCase):
    __test__ = False
    engine: Engine

    def create_recorder(self) -> SQLAlchemyRecorder:
        return SQLAlchemyRecorder(self.engine)


class TestAggregateOnFile(OnFile, Aggregate): ...


class TestAggregateInMemory(InMemory, Aggregate): ...


class TestAggregateOnPostgreSQL(OnPostgreSQL, Aggregate): ...


class TestApplicationOnFile(OnFile, Application): ...


class TestApplicationInMemory(InMemory, Application): ...


class TestApplicationOnPostgreSQL(OnPostgreSQL, Application): ...


class TestNonInterleavingOnFile(OnFile, NonInterleaving): ...


class TestNonInterleavingInMemory(InMemory, NonInterleaving): ...


class TestNonInterleavingOnPostgreSQL(OnPostgreSQL, NonInterleaving): ...
