"""What `verify` finds, and what it concludes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

from attrs import field, frozen

from esper_es.cli.exits import ExitCode
from esper_es.domain.canonical import Json


class Weight(StrEnum):
    """How bad a finding is."""

    FAILURE = "failure"
    """History or tensors are not what was recorded."""
    REMARK = "remark"
    """Something to tidy up; nothing that was recorded is in doubt."""


@frozen(kw_only=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: e.g. ``"altered"``, ``"missing_tensor"``.
        where: model and version, pack or table.
        message: for a person.
        weight: how bad it is.
    """

    kind: str
    where: str
    message: str
    weight: Weight = Weight.FAILURE

    def as_dict(self) -> dict[str, Json]:
        return {
            "kind": self.kind,
            "where": self.where,
            "message": self.message,
            "weight": self.weight.value,
        }


def _as_tuple(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(findings)


@frozen
class Check:
    """One part of the verification.

    Attributes:
        name: e.g. ``"chain"``.
        detail: what was looked at, in words; or why nothing was.
        findings: what is wrong.
        done: whether it could be carried out.
    """

    name: str
    detail: str
    findings: tuple[Finding, ...] = field(default=(), converter=_as_tuple)
    done: bool = True

    def as_dict(self) -> dict[str, Json]:
        return {
            "name": self.name,
            "detail": self.detail,
            "done": self.done,
            "findings": [finding.as_dict() for finding in self.findings],
        }


def verdict(checks: Sequence[Check]) -> ExitCode:
    """Return what the checks come to."""
    weights = {finding.weight for check in checks for finding in check.findings}
    if Weight.FAILURE in weights:
        return ExitCode.INTEGRITY
    return ExitCode.FINDING if weights else ExitCode.FINE
