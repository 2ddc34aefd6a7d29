"""The options that every command takes, before the command's name or behind it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from attrs import frozen

from esper_es.cli.locations import DB_VARIABLE, VAULT_VARIABLE, Location, locate

Db = Annotated[
    str | None,
    typer.Option(
        "--db",
        metavar="PATH_OR_URL",
        help=f"The log: runs.db or postgresql://...; else {DB_VARIABLE}, else the only *.db here.",
    ),
]
VaultPath = Annotated[
    str | None,
    typer.Option(
        "--vault",
        metavar="DIRECTORY",
        help=f"The tensors; else {VAULT_VARIABLE}, else runs.vault beside runs.db.",
    ),
]
ModelName = Annotated[
    str | None, typer.Option("--model", metavar="NAME", help="The model; else the only one.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Answer with one JSON document.")]
NoColor = Annotated[bool, typer.Option("--no-color", help="No colours and styles.")]
Yes = Annotated[bool, typer.Option("--yes", help="Answer every question with yes.")]


@frozen(kw_only=True)
class Shared:
    """What the shared options say.

    Attributes:
        db: a URL or a path.
        vault: a directory.
        model: name of a model.
        json: whether the answer is a JSON document.
        no_color: whether it is plain.
        yes: whether questions are answered with yes.
    """

    db: str | None = None
    vault: str | None = None
    model: str | None = None
    json: bool = False
    no_color: bool = False
    yes: bool = False

    def over(self, outer: Shared) -> Shared:
        """Return these options, and those of ``outer`` where these say nothing."""
        return Shared(
            db=self.db or outer.db,
            vault=self.vault or outer.vault,
            model=self.model or outer.model,
            json=self.json or outer.json,
            no_color=self.no_color or outer.no_color,
            yes=self.yes or outer.yes,
        )

    def location(self) -> Location:
        """Return where the log and its vault are.

        Raises:
            UsageError, LedgerError: if no log can be made out.
        """
        return locate(self.db, self.vault, os.environ, Path.cwd())


def shared_options(
    context: typer.Context,
    db: Db = None,
    vault: VaultPath = None,
    model: ModelName = None,
    json: AsJson = False,
    no_color: NoColor = False,
    yes: Yes = False,
) -> Shared:
    """Return the shared options of a command, over those given before its name."""
    given = Shared(db=db, vault=vault, model=model, json=json, no_color=no_color, yes=yes)
    outer = context.obj
    return given.over(outer) if isinstance(outer, Shared) else given
