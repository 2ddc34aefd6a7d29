"""``rollback``: what going back would do, and recording it for the next process that attaches the model."""

from __future__ import annotations

from typing import Annotated

import typer

from esper_es.cli.commands import command
from esper_es.cli.options import Shared
from esper_es.cli.output import Page
from esper_es.cli.reading import reading


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    command(app, "rollback")(rollback)


def rollback(
    shared: Shared,
    to: Annotated[int, typer.Option("--to", metavar="V", help="The version to go back to.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")] = False,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it is recorded.")] = "",
    actor: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who; it is recorded. Your user name by default.")
    ] = None,
) -> Page:
    """Go back to a captured version with the next attach.

    The rollback is recorded now; the next attach restores model, optimizer, scheduler, scaler and RNG. The log
    only grows, so that this can be rolled back too. A process that has the model attached now is refused its
    next change.
    """
    from esper_es.cli.rollback_page import rollback_page  # with it comes torch

    with reading(shared.location()) as source:
        return rollback_page(shared, source, to, dry_run=dry_run, reason=reason, actor=actor)
