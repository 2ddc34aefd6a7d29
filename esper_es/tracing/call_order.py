"""Questions about the order in which modules ran."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from esper_es.domain.errors import UsageError
from esper_es.tracing.calls import ModuleCall


class CallOrder:
    """Answers from recorded calls. ``first_paths`` maps every path of a shared module to its first one."""

    def __init__(self, calls: Sequence[ModuleCall], first_paths: Mapping[str, str]) -> None:
        self._first_paths = first_paths
        self._calls: dict[str, list[ModuleCall]] = defaultdict(list)
        for call in calls:
            self._calls[call.path].append(call)

    def of(self, path: str) -> tuple[ModuleCall, ...]:
        """All calls of a module in order, empty if it never ran."""
        return tuple(self._calls.get(self._first_paths.get(path, path), ()))

    def executed(self, path: str) -> bool:
        """Whether a module ran at all."""
        return bool(self.of(path))

    def finishes_before(self, first: str, second: str) -> bool:
        """Whether in every example, whenever ``second`` starts, a call of ``first`` has ended.

        Raises:
            UsageError: one of the modules never ran.
        """
        ends: dict[int, int] = {}
        for call in self._executed(first):
            ends.setdefault(call.example, call.ended)
        return all(ends.get(c.example, c.started) < c.started for c in self._executed(second))

    def contains(self, outer: str, inner: str) -> bool:
        """Whether ``inner`` is ``outer`` itself, lies below its path, or ran inside one of its calls."""
        if inner == outer or outer == "" or inner.startswith(f"{outer}."):
            return True
        return any(
            host.started < call.started and call.ended < host.ended
            for host in self.of(outer)
            for call in self.of(inner)
        )

    def _executed(self, path: str) -> tuple[ModuleCall, ...]:
        calls = self.of(path)
        if not calls:
            raise UsageError(f"{path!r} was never executed by the examples: choose a module that runs")
        return calls
