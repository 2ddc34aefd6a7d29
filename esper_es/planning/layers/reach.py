"""Which module outputs an output depends on, by execution."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.weak import WeakTensorKeyDictionary

from esper_es.projections.live.structures import tensors_in
from esper_es.tracing.operator_mode import OperatorMode

Marks = frozenset[str]
_NONE: Marks = frozenset()


class ReachMode(OperatorMode):
    """While it is open, marks on a tensor pass to all that is computed from it, what is written in place included."""

    def __init__(self) -> None:
        super().__init__()
        self._marks: MutableMapping[torch.Tensor, Marks] = WeakTensorKeyDictionary()
        self._written: dict[StorageWeakRef, Marks] = {}

    def mark(self, tensor: torch.Tensor, name: str) -> None:
        """Put a mark on a tensor."""
        self._marks[tensor] = self.marks_of(tensor) | {name}

    def marks_of(self, tensor: torch.Tensor) -> Marks:
        """Return the marks that reached a tensor, or the memory that it is a view of."""
        written = self._written.get(_memory_of(tensor), _NONE) if self._written else _NONE
        return self._marks.get(tensor, _NONE) | written

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        inputs = tensors_in((args, kwargs))
        reached = _NONE.union(*(self.marks_of(tensor) for tensor in inputs))
        output = func(*args, **(kwargs or {}))
        if reached:
            known = {id(tensor) for tensor in inputs}
            for tensor in tensors_in(output):
                self._marks[tensor] = self._marks.get(tensor, _NONE) | reached
                if id(tensor) in known:
                    memory = _memory_of(tensor)
                    self._written[memory] = self._written.get(memory, _NONE) | reached
        return output


def _memory_of(tensor: torch.Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
