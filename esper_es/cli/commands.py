"""How a function becomes a command: shared options in front, a page out, errors as exit codes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import typer
from sqlalchemy.exc import DBAPIError

from esper_es.cli.exits import ExitCode, exit_code_of, message_of
from esper_es.cli.options import Shared, shared_options
from esper_es.cli.output import Page, complain, show
from esper_es.domain.errors import EsperError

Command = TypeVar("Command", bound=Callable[..., Page])

_SHARED = inspect.signature(shared_options, eval_str=True).parameters


def command(app: typer.Typer, name: str) -> Callable[[Command], Command]:
    """Register a command of the program.

    The function takes ``Shared`` first and its own options after it. The options that ``Shared`` is made of are
    added to the command line. The page it returns is shown; an ``EsperError`` becomes one line on standard error
    and an exit code.
    """

    def register(function: Command) -> Command:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]

        def run(**given: Any) -> int:
            shared = shared_options(**{option: given.pop(option) for option in _SHARED})
            return _run(function, shared, given)

        run.__doc__ = function.__doc__
        keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *_SHARED.values())]
        run.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]
        app.command(name)(run)
        return function

    return register


def _run(function: Callable[..., Page], shared: Shared, given: dict[str, Any]) -> ExitCode:
    try:
        page = function(shared, **given)
    except (EsperError, DBAPIError) as error:
        complain(message_of(error))
        return exit_code_of(error)
    show(page, as_json=shared.json, no_color=shared.no_color)
    return page.code
