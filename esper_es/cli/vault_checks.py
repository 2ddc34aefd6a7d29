"""Checks of the vault: that what the log names is there and whole, and that every pack is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sqlalchemy import Connection

from esper_es.cli.captures import CaptureReader
from esper_es.cli.findings import Check, Finding, Weight
from esper_es.cli.layout import count, size
from esper_es.cli.log_checks import Histories, envelopes
from esper_es.domain.edits import digests_of
from esper_es.domain.errors import EsperError, MissingTensorError
from esper_es.domain.state import ModelState
from esper_es.vault import FindingKind, Vault

Problem = tuple[str, EsperError]
"""Model and version, and what is wrong there."""

_HARMLESS = frozenset({FindingKind.FOREIGN_FILE, FindingKind.INDEX_DISAGREES})


def check_captures(connection: Connection, histories: Histories, vault: Vault | None, absent: str) -> Check:
    """Read every capture that can be restored, and every tensor of the surgeries that are applied on top.

    Args:
        connection: to the log.
        histories: its models.
        vault: where the tensors are; None if there is none.
        absent: why there is none.
    """
    number = sum(len(state.captures) for state in histories.states.values())
    if vault is None:
        message = f"{absent}: {count(number, 'capture')} can't be restored"
        findings = [Finding(kind="missing_vault", where="vault", message=message)] if number else []
        return Check("captures", absent, findings, done=False)
    reader = CaptureReader(vault)
    problems = [
        *_of_captures(histories, reader),
        *_of_surgeries(connection, histories, reader),
    ]
    read = f"{count(len(reader.digests), 'tensor')} read, {size(reader.nbytes)}"
    return Check("captures", f"{count(number, 'capture')}, {read}", _findings(problems))


def _of_captures(histories: Histories, reader: CaptureReader) -> Iterator[Problem]:
    for state in histories.states.values():
        for point in state.captures.values():
            for error in reader.problems(state, point):
                yield f"{state.name} {point.version}", error


def _of_surgeries(connection: Connection, histories: Histories, reader: CaptureReader) -> Iterator[Problem]:
    for where, digest in _brought_in(connection, histories):
        error = reader.problem(digest)
        if error is not None:
            yield where, error


def _brought_in(connection: Connection, histories: Histories) -> Iterator[tuple[str, str]]:
    """Yield model and version, and digest, of tensors that exact restores take from surgeries."""
    needed = {model: _applied(state) for model, state in histories.states.items()}
    for envelope in envelopes(connection, histories.states):
        model = str(envelope.originator_id)
        if envelope.version in needed[model]:
            for edit in getattr(envelope.fact, "edits", ()):
                for digest in digests_of(edit).values():
                    yield histories.place(model, envelope.version), digest


def _applied(state: ModelState) -> frozenset[int]:
    return frozenset(version for r in state.restorable.values() for version in r.edits_of)


def _findings(problems: Iterable[Problem]) -> list[Finding]:
    """Return one finding for each problem, however many captures share it."""
    places: dict[tuple[str, str], list[str]] = {}
    for where, error in problems:
        kind = "missing_tensor" if isinstance(error, MissingTensorError) else "damaged_tensor"
        places.setdefault((kind, str(error)), []).append(where)
    return [
        Finding(kind=kind, where=", ".join(dict.fromkeys(wheres)), message=message)
        for (kind, message), wheres in places.items()
    ]


def check_vault(vault: Vault | None, absent: str) -> Check:
    """Read every byte of every pack."""
    if vault is None:
        return Check("vault", absent, done=False)
    findings = [
        Finding(
            kind=found.kind.value,
            where=found.pack,
            message=found.detail,
            weight=Weight.REMARK if found.kind in _HARMLESS else Weight.FAILURE,
        )
        for found in vault.verify()
    ]
    return Check("vault", f"every byte of its packs, {size(vault.size_bytes())}", findings)
