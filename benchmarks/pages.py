"""Pages of tables, which keep what was not measured again."""

from __future__ import annotations

from collections.abc import Sequence

_SECTION = "\n## "


def page(heading: str, tables: Sequence[str], before: str = "") -> str:
    """Return a page.

    Args:
        heading: what comes before the first table.
        tables: in Markdown, each from its ``## title`` on.
        before: the page as it was; its tables stay where no new one has their title.
    """
    sections = {_title(table): table for table in _tables_of(before)}
    sections |= {_title(table): table for table in tables}
    return "\n".join((heading, *sections.values()))


def _tables_of(text: str) -> list[str]:
    return [f"## {section.rstrip()}\n" for section in text.split(_SECTION)[1:]]


def _title(table: str) -> str:
    return table.partition("\n")[0]
