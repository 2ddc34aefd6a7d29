"""The one place that writes to the terminal."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from typing import TextIO

import orjson
from attrs import field, frozen
from rich.console import Console, RenderableType

from esper_es.cli.exits import ExitCode
from esper_es.cli.layout import printable
from esper_es.domain.canonical import Json


@frozen(eq=False)
class Page:
    """What a command has to say, for programs and for people.

    Attributes:
        document: the JSON document of ``--json``.
        lines: the same for a terminal.
        code: the exit code.
    """

    document: Json
    lines: Iterable[RenderableType] = ()
    code: ExitCode = field(default=ExitCode.FINE)


def show(page: Page, *, as_json: bool, no_color: bool) -> None:
    """Write a page to standard output: JSON, or text as wide as the terminal (``COLUMNS``, or 80 in a pipe)."""
    if as_json:
        _write(sys.stdout, orjson.dumps(page.document, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    console = Console(
        file=sys.stdout,
        color_system=None if no_color else "auto",
        highlight=False,
        markup=False,
        emoji=False,
    )
    with console.capture() as captured:
        for line in page.lines:
            console.print(line)
    text = captured.get()
    if not console.is_terminal:
        text = "".join(f"{line.rstrip()}\n" for line in text.split("\n")[:-1])
    _write(sys.stdout, text)


def complain(message: str) -> None:
    """Write an error to standard error, on one line."""
    _write(sys.stderr, f"error: {printable(' '.join(message.split()))}\n")


def _write(stream: TextIO, text: str) -> None:
    """Write and flush now, so that a reader who is gone is noticed here; escape what the encoding lacks."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    stream.write(text)
    stream.flush()
