"""What the tracer remembers of one live tensor."""

from __future__ import annotations

from collections.abc import Collection
from enum import IntEnum
from typing import NamedTuple

from esper_es.tracing.shadow import Shadow
from esper_es.tracing.union_find import Ids


class Origin(IntEnum):
    """Where a tensor's values come from. Of several operands the highest decides, see ``result_origin``."""

    UNIFORM = 0
    """All elements are equal (zeros, ones, full): none is a channel of its own, so they fit any channels."""
    CONSTANT = 1
    """Made in the forward or stored as a buffer: nothing is known about its channels."""
    TABLE = 2
    """A buffer, moved or added to others: it could be longer by zeros where channels are added to it."""
    WEIGHT = 3
    """Computed from parameters and constants alone."""
    INPUT = 4
    """The model input, moved or transformed element by element."""
    ACTIVATION = 5


class Debt(NamedTuple):
    """Channels that are pinned as soon as somebody looks at the values of a tensor, not only at its shape."""

    ids: Ids
    reason: str
    module: str


class Carry(NamedTuple):
    """The shadows of a tensor and its origin. A dimension that no shadow covers has no known channels."""

    shadows: tuple[Shadow, ...] = ()
    origin: Origin = Origin.CONSTANT
    debts: tuple[Debt, ...] = ()


UNKNOWN = Carry()


_COMPUTED = {origin: origin for origin in Origin} | {
    Origin.UNIFORM: Origin.CONSTANT,
    Origin.INPUT: Origin.ACTIVATION,
}
"""The origin of what is computed from several elements of each origin."""


def result_origin(operands: Collection[Origin], preserves: bool) -> Origin:
    """The origin of a result. ``preserves``: the operator moves elements or works on each by itself."""
    highest = max(operands, default=Origin.CONSTANT)
    if not preserves:
        return _COMPUTED[highest]
    return Origin.ACTIVATION if highest is Origin.INPUT and Origin.WEIGHT in operands else highest
