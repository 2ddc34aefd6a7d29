"""What a run of the program takes and gives back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from attrs import frozen


@frozen
class Answer:
    """Exit code and both outputs."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON document on standard output."""
        document: dict[str, Any] = orjson.loads(self.out)
        return document


Program = Callable[..., Answer]
"""Runs the program with the given arguments."""
