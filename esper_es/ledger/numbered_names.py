"""Names that differ in numbers only, as one: ``h.{i}.fc.weight``, and the numbers for ``{i}`` in runs.

A number is a whole segment between dots. Where names differ in several, the letters are ``i``, ``j`` and so on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from attrs import frozen

from esper_es.domain.canonical import Json
from esper_es.ledger.number_runs import numbers_of, runs_of
from esper_es.ledger.unreadable import Unreadable

_LETTERS: Final = "ijklmn"
_NUMBER: Final = re.compile(r"(?<![^.])(0|[1-9][0-9]{0,8})(?![^.])")
_SLOT: Final = re.compile(rf"\{{([{_LETTERS}])\}}")


@frozen(eq=False)
class Name:
    """A name that others may differ from in numbers only.

    Attributes:
        texts: what stands before, between and behind the numbers in it.
        numbers: these numbers.
    """

    texts: tuple[str, ...]
    numbers: tuple[int, ...]

    @classmethod
    def of(cls, text: str) -> Name | None:
        """Return a name in its parts; None for one that is always written in full."""
        if "{" in text or "}" in text:
            return None
        parts = _NUMBER.split(text)
        if len(parts) // 2 > len(_LETTERS):
            return None
        return cls(tuple(parts[::2]), tuple(map(int, parts[1::2])))


def patterned(names: Sequence[Name]) -> tuple[str, dict[str, Json]]:
    """Return the pattern of names with equal texts, and the numbers for each letter in it."""
    texts = names[0].texts
    pattern, columns, letters = texts[0], dict[str, Json](), iter(_LETTERS)
    for text, numbers in zip(texts[1:], zip(*(name.numbers for name in names), strict=True), strict=True):
        if len(set(numbers)) == 1:
            pattern += f"{numbers[0]}{text}"
        else:
            letter = next(letters)
            pattern += f"{{{letter}}}{text}"
            columns[letter] = runs_of(numbers)
    return pattern, columns


def spelled(pattern: str, columns: Mapping[str, Json], most: int, where: str) -> list[str]:
    """Return the names that a pattern and numbers for its letters stand for, ``most`` at the most.

    A pattern without letters is one name.

    Raises:
        Unreadable: if the numbers are not for this pattern.
    """
    parts = _SLOT.split(pattern)
    texts, letters = parts[::2], parts[1::2]
    if sorted(letters) != sorted(columns) or any(brace in text for text in texts for brace in "{}"):
        raise Unreadable(f"{where} has numbers for {sorted(columns)}, the name is {pattern!r}")
    numbers = [numbers_of(columns[letter], most, f"{where}.{letter}") for letter in letters]
    if len({len(column) for column in numbers}) > 1:
        raise Unreadable(f"{where} has not as many numbers for each letter")
    if not numbers:
        return [pattern]
    spelling = "%d".join(text.replace("%", "%%") for text in texts)
    return [spelling % row for row in zip(*numbers, strict=True)]
