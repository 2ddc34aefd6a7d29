"""``explain``: what grows and shrinks together with a layer, and what keeps it as it is."""

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
    command(app, "explain")(explain)


def explain(
    shared: Shared,
    layer: Annotated[str, typer.Argument(metavar="LAYER", help="Its path, e.g. encoder.0.")],
    dimension: Annotated[
        str, typer.Option("--dimension", metavar="DIM", help="out, in, or a number of the weight's.")
    ] = "out",
    to: Annotated[int | None, typer.Option("--to", metavar="V", help="The newest by default.")] = None,
    imports: Annotated[
        list[str] | None,
        typer.Option(
            "--import", metavar="MODULE", help="Import your code that registers blueprints; repeatable."
        ),
    ] = None,
) -> Page:
    """Rebuild a version, run it on the example inputs of its owner, and show what grows together with a layer."""
    from esper_es.cli.explain_page import explain_page  # with it comes torch

    import_modules(imports or ())
    with reading(shared.location()) as source:
        return explain_page(source, shared.model, layer, dimension, to, imported=bool(imports))
