"""The program ``esper-es``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from esper_es.cli import (
    architecture_commands,
    audit_command,
    explain_command,
    history_commands,
    replay_command,
    rollback_command,
    verify_command,
)
from esper_es.cli.exits import ExitCode
from esper_es.cli.options import AsJson, Db, ModelName, NoColor, Shared, VaultPath, Yes
from esper_es.cli.output import complain
from esper_es.release import package_version


class Program(TyperGroup):
    """Says what is wrong with a command line as all other errors are said: on one line."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Run the program and leave with its exit code."""
        try:
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except typer.TyperException as error:
            complain(error.format_message())
            sys.exit(ExitCode.USAGE)
        except typer.Abort:
            complain("aborted")
            sys.exit(ExitCode.FINDING)
        sys.exit(code if isinstance(code, int) else ExitCode.FINE)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find a command, or say which ones there are."""
        if args[0] not in self.commands:
            ctx.fail(f"there is no command {args[0]!r}; there are: {', '.join(self.commands)}")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=Program,
    name="esper-es",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    invoke_without_command=True,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"esper-es {package_version()}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    db: Db = None,
    vault: VaultPath = None,
    model: ModelName = None,
    json: AsJson = False,
    no_color: NoColor = False,
    yes: Yes = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version.")
    ] = False,
) -> None:
    """Read the history of models: what happened to them, when, by whom and why.

    Exit codes: 0 fine; 1 something was found or refused; 2 it can't be done as asked; 3 stored history or
    tensors are not what was recorded.
    """
    context.obj = Shared(db=db, vault=vault, model=model, json=json, no_color=no_color, yes=yes)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(ExitCode.USAGE)


for group in (
    history_commands,
    architecture_commands,
    explain_command,
    audit_command,
    replay_command,
    rollback_command,
    verify_command,
):
    group.register(app)


def main() -> None:
    """Run the program with the arguments of this process, and leave with its exit code."""
    logging.basicConfig(level=logging.WARNING, format="warning: %(message)s")
    app()
