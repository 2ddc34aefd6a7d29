"""How captures and rollbacks become rows."""

from __future__ import annotations

from sqlalchemy import bindparam, update

from esper_es.domain.envelope import Envelope
from esper_es.domain.facts import CapturesReleased, RolledBack, StateCaptured
from esper_es.projections.audit.log_tables import captures, rollbacks
from esper_es.projections.audit.structure import restore_version
from esper_es.projections.audit.writer import Writer, model_key

_RELEASE = (
    update(captures)
    .where(captures.c.model_id == bindparam("model"), captures.c.version == bindparam("capture"))
    .values(released_by_version=bindparam("by"))
)


def capture_state(writer: Writer, envelope: Envelope, fact: StateCaptured) -> None:
    writer.add(
        captures,
        envelope,
        of_version=fact.of_version,
        manifest=fact.manifest,
        model_fingerprint=fact.model_fingerprint,
        tensors=fact.tensors,
        bytes=fact.nbytes,
        reason=fact.reason,
        released_by_version=None,
    )


def release_captures(writer: Writer, envelope: Envelope, fact: CapturesReleased) -> None:
    released = [
        {"model": model_key(envelope), "capture": version, "by": envelope.version}
        for version in fact.versions
    ]
    if released:
        writer.write().execute(_RELEASE, released)


def roll_back(writer: Writer, envelope: Envelope, fact: RolledBack) -> None:
    expected = fact.expected_fingerprint
    writer.add(
        rollbacks,
        envelope,
        to_version=fact.to_version,
        capture_version=fact.capture_version,
        from_version=fact.from_version,
        base_capture_version=fact.base_capture,
        triggered_by=fact.trigger,
        reason=fact.reason,
        epochs_discarded=fact.epochs_discarded,
        steps_discarded=fact.steps_discarded,
        fingerprint=fact.fingerprint,
        model_fingerprint=fact.model_fingerprint,
        expected_fingerprint=expected,
        matched=None if expected is None else fact.fingerprint == expected,
    )
    restore_version(writer, envelope, fact.to_version)
