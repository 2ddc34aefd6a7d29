"""The audit tables of one log."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from sqlalchemy import Engine

from esper_es.domain.envelope import Envelope
from esper_es.projections.audit.projector import projected_versions, rebuild
from esper_es.projections.audit.question import Answer, Question
from esper_es.projections.audit.questions import QUESTIONS, ask


class Audit:
    """Answers questions about every model of a log, each with the SQL that did it.

    Args:
        database: engine of the log.
    """

    def __init__(self, database: Engine) -> None:
        self._database = database

    def questions(self) -> tuple[Question, ...]:
        """Return the questions that there are, in the order of their numbers."""
        return tuple(QUESTIONS.values())

    def ask(self, name: str, **parameters: Any) -> Answer:
        """Answer a question, e.g. ``ask("blame", model="digits")``.

        Raises:
            UsageError: for an unknown question, model or version, or parameters that do not fit; it lists what
                there is.
        """
        with self._database.connect() as connection:
            return ask(connection, name, **parameters)

    def versions(self) -> dict[UUID, int]:
        """Return, by model, the version up to which the tables have seen its facts: that of its head."""
        with self._database.connect() as connection:
            return projected_versions(connection)

    def rebuild(self, envelopes: Iterable[Envelope]) -> None:
        """Empty the tables and fill them anew, in one transaction; appends wait for its end.

        Args:
            envelopes: every fact of every model, those of one model in order. Not a generator that reads this
                log through a connection of its own, if the log is in memory.

        Raises:
            UsageError: if they end before the facts that the tables have seen; nothing was changed.
            LedgerError: if they do not fit one another; nothing was changed.
        """
        with self._database.begin() as connection:
            rebuild(connection, envelopes)
