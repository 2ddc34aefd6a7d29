"""``log`` and ``show``: the facts of a model, all of them or one in full."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from esper_es.cli.commands import command
from esper_es.cli.fact_page import fact_document, fact_lines, stored_fact
from esper_es.cli.layout import Hanging, joined, printable, words
from esper_es.cli.options import Shared
from esper_es.cli.output import Page
from esper_es.cli.reading import reading
from esper_es.cli.summaries import summary_of
from esper_es.domain.canonical import Json
from esper_es.domain.catalog import BY_CLASS
from esper_es.domain.envelope import Envelope
from esper_es.domain.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    command(app, "log")(log)
    command(app, "show")(show)


def log(
    shared: Shared,
    oneline: Annotated[bool, typer.Option("--oneline", help="One line for each fact.")] = False,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION|TIME", help="From this version or ISO 8601 time (UTC if it says no zone) on."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the newest N.")] = None,
) -> Page:
    """List the facts of a model, the newest last."""
    with reading(shared.location()) as source:
        name, _ = source.model(shared.model)
        envelopes = _since(source.history(name), since)
    if limit is not None:
        envelopes = envelopes[-limit:]
    document = {"model": name, "facts": [entry_document(envelope) for envelope in envelopes]}
    return Page(document, _oneline(envelopes) if oneline else _entries(envelopes))


def show(
    shared: Shared,
    version: Annotated[int, typer.Argument(metavar="V", help="Version that the fact led to.")],
) -> Page:
    """Show one fact in full: cause, edits, effects, digests."""
    with reading(shared.location()) as source:
        name, model = source.model(shared.model)
        fact = stored_fact(source.log, name, model, version)
        caused_by = fact.envelope.cause.caused_by
        cause = None if caused_by is None else stored_fact(source.log, name, model, caused_by).envelope
    return Page(fact_document(fact, name), fact_lines(fact, name, cause))


def moment(at: str) -> str:
    """Return a stored UTC time to the second, e.g. ``2026-11-23T10:00:00Z``."""
    return f"{at[:19]}Z"


def stored_name(envelope: Envelope) -> str:
    """Return the stored name of a fact, e.g. ``surgery.layer_added``."""
    return BY_CLASS[type(envelope.fact)].name


def entry_document(envelope: Envelope) -> dict[str, Json]:
    """Return one entry of ``log`` as JSON."""
    cause = envelope.cause
    return {
        "version": envelope.version,
        "at": envelope.at,
        "epoch": envelope.epoch,
        "step": envelope.step,
        "name": stored_name(envelope),
        "summary": summary_of(envelope.fact),
        "actor": cause.actor,
        "reasoning": cause.reasoning,
        "decision_id": cause.decision_id,
        "confidence": cause.confidence,
        "caused_by": cause.caused_by,
    }


def _since(envelopes: tuple[Envelope, ...], since: str | None) -> tuple[Envelope, ...]:
    if since is None:
        return envelopes
    if since.isdecimal():
        return tuple(e for e in envelopes if e.version >= int(since))
    try:
        start = datetime.fromisoformat(since)
    except ValueError:
        raise UsageError(
            f"--since takes a version (12) or a time in ISO 8601 (2026-11-23T10:00), not {since!r}"
        ) from None
    start = start if start.tzinfo else start.replace(tzinfo=UTC)
    return tuple(e for e in envelopes if datetime.fromisoformat(e.at) >= start)


def _oneline(envelopes: Sequence[Envelope]) -> Iterator[RenderableType]:
    width = _version_width(envelopes)
    for envelope in envelopes:
        yield Hanging(
            joined(words(f"{envelope.version:>{width}}", "yellow"), " "),
            joined(words(stored_name(envelope), "cyan"), " ", summary_of(envelope.fact)),
            one_line=True,
        )


def _entries(envelopes: Sequence[Envelope]) -> Iterator[RenderableType]:
    width = _version_width(envelopes)
    margin = Text(" " * (width + 2))
    for envelope in envelopes:
        clock = f"  {moment(envelope.at)}  epoch {envelope.epoch}  step {envelope.step}"
        yield Hanging(
            words(f"{envelope.version:>{width}}  ", "yellow"),
            joined(words(stored_name(envelope), "bold cyan"), words(clock, "dim")),
        )
        yield Hanging(margin, words(summary_of(envelope.fact)))
        yield Hanging(margin, _cause(envelope))


def _cause(envelope: Envelope) -> Text:
    cause = envelope.cause
    reasoning = f": {printable(cause.reasoning)}" if cause.reasoning else ""
    return joined(words(f"by {cause.actor}", "green"), reasoning)


def _version_width(envelopes: Sequence[Envelope]) -> int:
    return len(str(envelopes[-1].version)) if envelopes else 1
