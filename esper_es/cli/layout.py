"""Text for a terminal: every line fits its width, and nothing that a log says can steer the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from attrs import field, frozen
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_UNITS = ("KiB", "MiB", "GiB", "TiB")
_UNLIMITED = 100_000
_BELOW = 4
"""Columns by which a paragraph is indented that begins below its head."""


def printable(text: str) -> str:
    """Return text with control, format and other invisible characters escaped, e.g. ``\\x1b``."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def words(text: object, style: str = "") -> Text:
    """Return text as it goes to the terminal: escaped, and free of markup."""
    return Text(printable(str(text)), style)


def joined(*parts: Text | str) -> Text:
    """Return parts as one text; plain strings are escaped."""
    return Text.assemble(*(part if isinstance(part, Text) else words(part) for part in parts))


@frozen(eq=False)
class Hanging:
    """A paragraph behind a head, with its further lines as far indented as the head is wide.

    Where that would break a word, such as a digest, that fits on a line of its own, the paragraph begins below.

    Attributes:
        head: what stands in front of the first line.
        body: the paragraph.
        one_line: cut it off, with an ellipsis, rather than let it run over several lines.
    """

    head: Text
    body: Text = field(factory=Text)
    one_line: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.one_line:
            line = joined(self.head, self.body)
            line.truncate(options.max_width, overflow="ellipsis")
            yield line
            return
        below = self._begins_below(options.max_width)
        if below:
            yield Text(self.head.plain.rstrip(), self.head.style, spans=self.head.spans)
        indent = min(_BELOW, options.max_width - 1) if below else self.head.cell_len
        lines = self.body.wrap(console, options.max_width - indent) or [Text()]
        for number, line in enumerate(lines):
            front = self.head if number == 0 and not below else Text(" " * indent)
            line = joined(front, line)
            line.rstrip()
            yield line

    def _begins_below(self, width: int) -> bool:
        left = width - self.head.cell_len
        longest = max((cell_len(word) for word in self.body.plain.split()), default=0)
        return bool(longest) and left < min(longest, max(width - _BELOW, 1))


def pairs(entries: Iterable[tuple[str, Text | str]], indent: int = 0) -> list[Hanging]:
    """Return names and values, one below the other, with values aligned."""
    entries = list(entries)
    width = max((len(name) for name, _ in entries), default=0)
    margin = " " * indent
    return [
        Hanging(joined(margin, Text(f"{printable(name):<{width}}  ", "dim")), joined(value))
        for name, value in entries
    ]


@frozen(eq=False)
class Rows:
    """A table if it fits the terminal without breaking words; else one record below the other.

    Attributes:
        columns: headings.
        rows: cells; None is an empty one.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = self._table()
        if Measurement.get(console, options.update(width=_UNLIMITED), table).minimum <= options.max_width:
            yield table
            return
        for number, row in enumerate(self.rows):
            if number:
                yield Text()
            cells = zip(self.columns, map(_cell, row), strict=True)
            yield from pairs(list(cells))

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for position, name in enumerate(self.columns):
            numeric = bool(self.rows) and all(_is_number(row[position]) for row in self.rows)
            table.add_column(words(name), justify="right" if numeric else "left")
        for row in self.rows:
            table.add_row(*map(_cell, row))
        return table


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _cell(value: object) -> Text:
    match value:
        case None:
            return Text("-", "dim")
        case Text():
            return value
        case float():
            return words(f"{value:.6g}")
        case _:
            return words(value)


def listed(names: Sequence[str], most: int = 20) -> str:
    """Return names as a list of words, the first few of many."""
    shown = ", ".join(names[:most]) or "none"
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def count(number: int, noun: str) -> str:
    """Return e.g. ``1 module`` or ``2,048 modules``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def signed(number: int) -> str:
    """Return a difference with its sign, e.g. ``+592``."""
    return f"{number:+,}" if number else "0"


def size(nbytes: int) -> str:
    """Return a number of bytes for a person, in powers of 1024."""
    if nbytes < 1024:
        return count(nbytes, "byte")
    power = min((nbytes.bit_length() - 1) // 10, len(_UNITS))
    return f"{nbytes / 1024**power:.1f} {_UNITS[power - 1]}"
