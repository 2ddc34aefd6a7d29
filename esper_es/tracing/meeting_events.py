"""What happens to shadows that meet in one operator. Shadows go by their number among all that meet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from esper_es.tracing.operation import Operation
from esper_es.tracing.shadow import Shadow, collapsed, relocated


class Pinned(NamedTuple):
    number: int
    reason: str

    def happen(self, op: Operation, shadows: Sequence[Shadow]) -> None:
        op.pin(shadows[self.number].ids, self.reason)


class Collapsed(NamedTuple):
    """Bundled along all dimensions but these."""

    number: int
    onto: tuple[int, ...]

    def happen(self, op: Operation, shadows: Sequence[Shadow]) -> None:
        op.collapse(shadows[self.number], self.onto)


class Read(NamedTuple):
    """Summed over; ``paired`` where no weight, but other such channels stand on the other side of the product."""

    number: int
    paired: bool

    def happen(self, op: Operation, shadows: Sequence[Shadow]) -> None:
        op.read(shadows[self.number].ids, self.paired)


class Met(NamedTuple):
    """Summed over with channels of the other factor, so many at a time; neither is a weight."""

    number: int
    size: int

    def happen(self, op: Operation, shadows: Sequence[Shadow]) -> None:
        op.meet(shadows[self.number].ids, self.size)


class Same(NamedTuple):
    """Two shadows on the same labels; ``order`` are the right one's axes in the order of the left one's."""

    left: int
    right: int
    order: tuple[int, ...]

    def happen(self, op: Operation, shadows: Sequence[Shadow]) -> None:
        ids = shadows[self.right].ids
        op.same(shadows[self.left].ids, ids if len(self.order) == 1 else ids.transpose(self.order))


class Bundled(NamedTuple):
    """Two shadows that share the labels of these dimensions, and no others."""

    left: int
    left_onto: tuple[int, ...]
    right: int
    right_onto: tuple[int, ...]

    def happen(self, op: Operation, shadows: Sequence[Shadow]) -> None:
        op.bundle(
            op.collapse(shadows[self.left], self.left_onto),
            op.collapse(shadows[self.right], self.right_onto),
        )


class Shared(NamedTuple):
    """A weight's shadow on some of the labels of another one: these dimensions of that one."""

    few: int
    many: int
    onto: tuple[int, ...]

    def happen(self, op: Operation, shadows: Sequence[Shadow]) -> None:
        op.share(shadows[self.few], shadows[self.many], self.onto)


class Outcome(NamedTuple):
    """A shadow of the result: what is left of one that met, along ``onto``, on the dimensions ``dims``."""

    number: int
    operand: int
    onto: tuple[int, ...]
    dims: tuple[int, ...]

    def shadow(self, op: Operation, shadows: Sequence[Shadow]) -> Shadow:
        whole = shadows[self.number]
        ids = whole.ids if self.onto == whole.dims else collapsed(whole, self.onto)
        if len(self.dims) == 1:
            return Shadow(self.dims, ids)
        axes = tuple(range(len(self.dims)))
        return relocated(Shadow(axes, ids), dict(zip(axes, self.dims, strict=True)))


Event = Pinned | Collapsed | Read | Met | Same | Bundled | Shared


class Meeting(NamedTuple):
    events: tuple[Event, ...]
    outcomes: tuple[Outcome, ...]
