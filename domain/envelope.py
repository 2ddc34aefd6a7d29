"""A fact with its address in the log, its moment, and who caused it and why."""

from __future__ import annotations

from uuid import UUID, uuid5

from attrs import Attribute, field, frozen
from attrs.validators import instance_of, optional

from esper_es.domain.canonical import finite_numbers
from esper_es.domain.errors import UsageError
from esper_es.domain.facts import Fact

NAMESPACE = UUID("6f0a4f3e-2f55-5a8e-9a63-6b1f2f0c7d11")


def model_id(name: object) -> UUID:
    """Return the id of the model with this name; the same name always gives the same id.

    Raises:
        UsageError: for what can be no model's name.
    """
    if not isinstance(name, str) or not 1 <= len(name) <= 255 or not name.isprintable() or name.isspace():
        raise UsageError(f"a model's name is a string of 1 to 255 printable characters, got {name!r}")
    return uuid5(NAMESPACE, name)


def _confidence(_: object, attribute: Attribute[float], value: float | None) -> None:
    if value is not None:
        finite_numbers({attribute.name: value}, "Cause")


@frozen(kw_only=True)
class Cause:
    """Who changed something, and why.

    Attributes:
        actor: a person, a policy, or ``"engine"``.
        reasoning: in words.
        decision_id: the decision that led here.
        confidence: of that decision, in [0, 1].
        caused_by: version of the fact that led here.
    """

    actor: str = field(default="user", validator=instance_of(str))
    reasoning: str = field(default="", validator=instance_of(str))
    decision_id: str | None = field(default=None, validator=optional(instance_of(str)))
    confidence: float | None = field(default=None, validator=_confidence)
    caused_by: int | None = None


@frozen(kw_only=True)
class Envelope:
    """One entry of a model's log.

    Attributes:
        originator_id: id of the model.
        originator_version: 1 for the first fact; each fact adds one.
        at: UTC moment of recording, ISO 8601 with microseconds.
        epoch: epochs that had ended.
        step: optimizer steps that had been taken.
        cause: who and why.
        fact: what happened.
    """

    originator_id: UUID
    originator_version: int
    at: str
    epoch: int
    step: int
    cause: Cause
    fact: Fact

    @property
    def version(self) -> int:
        return self.originator_version
