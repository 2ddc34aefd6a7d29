"""The questions that the audit tables answer, and how one is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, bindparam, func, select, text

from esper_es.domain.errors import UsageError
from esper_es.projections.audit.cause_questions import CAUSE, ENVIRONMENT, OVERRIDES
from esper_es.projections.audit.log_tables import history, models
from esper_es.projections.audit.question import FACT, VERSION, Answer, Question
from esper_es.projections.audit.rollback_questions import PROOFS, ROLLBACKS
from esper_es.projections.audit.seed_questions import PROMOTIONS, SEEDS
from esper_es.projections.audit.structure_questions import ARCHITECTURE, BLAME, FACTS
from esper_es.projections.audit.surgery_questions import FAILURES, OPTIMIZER, SIZES

QUESTIONS: Final[Mapping[str, Question]] = {
    question.name: question
    for question in (
        ARCHITECTURE,
        FACTS,
        CAUSE,
        SEEDS,
        BLAME,
        PROMOTIONS,
        OVERRIDES,
        ROLLBACKS,
        PROOFS,
        OPTIMIZER,
        ENVIRONMENT,
        FAILURES,
        SIZES,
    )
}
"""By name, in the order of their numbers."""

_NEWEST: Final = (
    select(func.max(history.c.version))
    .join(models, models.c.model_id == history.c.model_id)
    .where(models.c.name == bindparam("model"))
)


def ask(connection: Connection, question_name: str, **parameters: Any) -> Answer:
    """Answer a question.

    Args:
        connection: to the database of the log.
        question_name: a key of ``QUESTIONS``.
        **parameters: as the question needs; ``model`` always. None is the same as leaving it out.

    Raises:
        UsageError: for an unknown question, model or version, or parameters that do not fit; it lists what
            there is.
    """
    question = QUESTIONS.get(question_name)
    if question is None:
        known = "; ".join(f"{known.name} ({known.text})" for known in QUESTIONS.values())
        raise UsageError(f"there is no question {question_name!r}; there are: {known}")
    values = question.values(parameters)
    _require_known(connection, values)
    rows = connection.execute(text(question.sql), values)
    return Answer(question, question.columns, tuple(tuple(row) for row in rows), question.sql, values)


def _require_known(connection: Connection, values: Mapping[str, Any]) -> None:
    newest = connection.scalar(_NEWEST, {"model": values["model"]})
    if newest is None:
        known = ", ".join(connection.scalars(select(models.c.name).order_by(models.c.name))) or "none"
        raise UsageError(f"the log knows no model {values['model']!r}; it knows: {known}")
    for name in (VERSION.name, FACT.name):
        version = values.get(name)
        if version is not None and version > newest:
            raise UsageError(f"model {values['model']!r} has no version {version}; it has 1 to {newest}")
