"""Keeps the tables of the architecture in step with facts that change it."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve

from esper_es.domain.architecture import Architecture
from esper_es.domain.edits import Edit, ScaleSlice, ScaleTensor, SetScalar
from esper_es.domain.envelope import Envelope
from esper_es.domain.errors import LedgerError
from esper_es.domain.evolution import evolved
from esper_es.projections.audit.architecture_rows import (
    Entries,
    architecture_of,
    contents_of,
    touching,
)
from esper_es.projections.audit.stretches import ARCHITECTURE, SEEDS, attributed
from esper_es.projections.audit.writer import Writer, model_key

_OF_VALUES_ONLY = (SetScalar, ScaleTensor, ScaleSlice)


def begin_architecture(writer: Writer, envelope: Envelope, architecture: Architecture) -> None:
    """Write the architecture of a model that has none yet."""
    _replace(writer, envelope, {table: {} for table in ARCHITECTURE}, architecture)


def follow_edits(writer: Writer, envelope: Envelope, edits: Sequence[Edit]) -> None:
    """Write what edits change in the architecture.

    Raises:
        LedgerError: if they do not fit the architecture that the tables hold.
    """
    if all(isinstance(edit, _OF_VALUES_ONLY) for edit in edits):
        return
    connection = writer.write()
    rows = {table: table.now(connection, model_key(envelope)) for table in ARCHITECTURE}
    try:
        before = architecture_of(rows)
        after = evolved(before, edits)
    except ValueError as error:
        raise does_not_fit(envelope, str(error)) from error
    touched = _touched(before, after)
    nodes = {path: after.nodes[path] for path in touched & after.nodes.keys()}
    _replace(writer, envelope, touching(rows, touched), evolve(after, nodes=nodes))


def _touched(before: Architecture, after: Architecture) -> set[str]:
    """Return the paths of modules that edits touched: they leave all other modules the same objects."""
    paths = {*before.nodes, *after.nodes}
    return {path for path in paths if before.nodes.get(path) is not after.nodes.get(path)}


def _replace(writer: Writer, envelope: Envelope, before: Entries, after: Architecture) -> None:
    connection = writer.write()
    for table, contents in contents_of(after).items():
        entries = attributed(before[table], contents, envelope.version)
        table.replace(connection, model_key(envelope), envelope.version, before[table], entries)


def restore_version(writer: Writer, envelope: Envelope, to_version: int) -> None:
    """Let everything be true again that was true at a version, and nothing else."""
    connection = writer.write()
    model = model_key(envelope)
    for table in (*ARCHITECTURE, SEEDS):
        now = table.now(connection, model)
        table.replace(connection, model, envelope.version, now, table.at(connection, model, to_version))


def does_not_fit(envelope: Envelope, detail: str) -> LedgerError:
    """The error of a fact that cannot follow what the tables hold."""
    return LedgerError(
        f"version {envelope.version} of model {envelope.originator_id} ({type(envelope.fact).__name__}) does "
        f"not fit the audit tables ({detail}); somebody changed them: rebuild them from the log"
    )
