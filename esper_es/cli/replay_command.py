"""``replay``: a version rebuilt, and compared with what the log recorded."""

from __future__ import annotations

from typing import Annotated

import typer

from esper_es.cli.commands import command
from esper_es.cli.options import Shared
from esper_es.cli.output import Page
from esper_es.cli.reading import reading
from esper_es.cli.user_code import import_modules


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    command(app, "replay")(replay)


def replay(
    shared: Shared,
    to: Annotated[int | None, typer.Option("--to", metavar="V", help="The newest by default.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare with what was recorded; exit 3 if it differs.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="Rebuild on it, e.g. cuda; the CPU by default.")
    ] = None,
    imports: Annotated[
        list[str] | None,
        typer.Option(
            "--import", metavar="MODULE", help="Import your code that registers blueprints; repeatable."
        ),
    ] = None,
) -> Page:
    """Rebuild a version from the log, and say how exact it is."""
    from esper_es.cli.replay_page import replay_page  # with it comes torch

    import_modules(imports or ())
    with reading(shared.location()) as source:
        return replay_page(source, shared.model, to, check=check, device=device, imported=bool(imports))
